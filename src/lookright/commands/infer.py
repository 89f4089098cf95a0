"""`infer.py` from a composed config to predictions, metrics and a report."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer
from lookright.attention.band import one_layer
from lookright.backbones.base import Backbone
from lookright.backbones.loading import check_adapter, load_policy, pick_device, torch_dtype
from lookright.commands.cli import start
from lookright.commands.measuring import ANSWERS_FILE, headline, measure, predict
from lookright.common.locks import locked
from lookright.common.stopping import stoppable
from lookright.config.check import Problems
from lookright.config.entry import with_output
from lookright.config.inputs import PICTURES
from lookright.config.made_by import MadeBy, describe_data, made_by
from lookright.config.runs import CONFIG_FILE, read_config, with_run
from lookright.errors import ConfigError
from lookright.evaluation.predictions import build_metrics
from lookright.evaluation.questions import Questions
from lookright.packing.logprobs import check_rows
from lookright.records.used import used_pictures

KEYS = ("backbone", "adapter", "data", "decode", "dtype", "ratio_layer", "ratio_rows", "seed", "metrics")
"""What the predictions of a folder depend on."""


def infer(config: DictConfig) -> dict[str, Any]:
    """Answer a test set; returns what `metrics.json` holds.

    `run` names a training run, whose backbone and adapter are taken; `adapter` an adapter folder; with
    neither the base model answers. Predictions are appended as they come, so a killed run goes on.
    """
    config = with_run(with_output(config))
    parts = _Parts(config)
    folder = Path(config.output)
    with stoppable(lambda: f"what is answered stays; go on with the same command and output={folder}"), locked(folder):
        return _infer(config, parts)


def _infer(config: DictConfig, parts: "_Parts") -> dict[str, Any]:
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    parts.questions.prepare(parts.backbone)
    parts.decoder.check(parts.backbone, (prompt for _, prompts in parts.questions.groups() for prompt in prompts))
    parts.metrics.check(parts.questions.prompts)
    folder = open_output(config, ANSWERS_FILE, KEYS)
    record = _record(config, parts.questions)
    record.write(folder)
    answerer = Answerer(
        backbone=parts.backbone,
        policy=load_policy(parts.backbone, config.adapter, parts.device, parts.dtype),
        decoder=parts.decoder,
        ratio_layer=parts.ratio_layer,
        batch_size=config.batch_size,
        ratio_rows=config.ratio_rows,
        unreadable=parts.questions.leave_out,
    )
    predict(answerer, parts.questions, parts.metrics, folder)
    result = measure(answerer, parts.questions, parts.metrics, parts.num_examples, folder, record)
    print(headline(parts.metrics, result))
    print(f"wrote {folder / 'predictions.jsonl'}, {folder / 'metrics.json'} and {folder / 'report.html'}")
    return result


def _record(config: DictConfig, questions: Questions) -> MadeBy:
    """What makes the run, for its folder, with the pictures that are asked about; questions are read."""
    record = made_by(config, "infer.py", describe_data(config.data))
    pictures = used_pictures(record.data, questions.places())
    return replace(record, inputs=record.inputs | {f"data.{PICTURES}": pictures})


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device = pick_device(config.device)
        with problems:
            self.dtype = torch_dtype(config.dtype)
        with problems:
            check_adapter(config.adapter)
        with problems:
            if config.batch_size < 1 or config.overlays < 0:
                raise ConfigError(
                    f"batch_size={config.batch_size}, overlays={config.overlays}; set 1 or more, and 0 or more"
                )
        self.num_examples: int = config.overlays
        self.decoder = problems.build("decode")
        self.metrics = build_metrics(problems)
        self.questions: Questions = problems.build("data", "all")
        self.backbone: Backbone = problems.build("backbone")
        if self.backbone is not None:
            with problems:
                self.ratio_layer = one_layer(self.backbone.num_layers, config.ratio_layer)
            with problems:
                if self.decoder is not None:
                    self.decoder.check(self.backbone)
        with problems:
            check_rows(config.ratio_rows)
        problems.finish()


def open_output(config: DictConfig, answers_file: str, keys: Collection[str]) -> Path:
    """The output folder, its config written; raises ConfigError where it holds answers that another config gave.

    `answers_file` is the file of answers there, `keys` those of the config that decide them.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    path = folder / CONFIG_FILE
    if path.is_file() and (folder / answers_file).is_file():
        weights = None if config.adapter is None else Path(config.adapter) / "adapter_model.safetensors"
        if weights is not None and weights.is_file() and weights.stat().st_mtime > path.stat().st_mtime:
            raise ConfigError(
                f"output={folder} holds predictions that are older than {weights}; set another output, or delete them"
            )
        saved: Any = OmegaConf.to_container(read_config(folder, "output"))
        changed = [key for key in keys if saved.get(key) != plain.get(key)]
        if changed:
            raise ConfigError(
                f"output={folder} holds predictions of another config ({', '.join(changed)} differ); set another output"
            )
        return folder
    OmegaConf.save(config, path, resolve=True)
    return folder


def job(config: DictConfig) -> None:
    """Run one job."""
    infer(config)


if __name__ == "__main__":
    start("infer", job)
