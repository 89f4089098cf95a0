"""`infer.py` from a composed config to predictions, metrics and a report."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer
from lookright.attention.band import one_layer
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.loading import load_policy, pick_device, torch_dtype
from lookright.commands.measuring import ANSWERS_FILE, headline, measure, predict
from lookright.common.locks import locked
from lookright.common.stopping import stoppable
from lookright.config.check import Problems
from lookright.config.entry import given_overrides, launch, with_output
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.made_by import describe_data, made_by
from lookright.config.runs import run_model
from lookright.errors import ConfigError
from lookright.evaluation.predictions import build_metrics
from lookright.evaluation.questions import Questions
from lookright.packing.logprobs import check_rows

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
    folder = open_output(config, ANSWERS_FILE, KEYS)
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
    record = made_by(config, "infer.py", describe_data(config.data))
    record.write(folder)
    result = measure(answerer, parts.questions, parts.metrics, parts.num_examples, folder, record)
    print(headline(parts.metrics, result))
    print(f"wrote {folder / 'predictions.jsonl'}, {folder / 'metrics.json'} and {folder / 'report.html'}")
    return result


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


def with_run(config: DictConfig) -> DictConfig:
    """Fill in backbone and adapter from the training run. Raises ConfigError for a folder that is none."""
    if config.run is None:
        return config
    if config.adapter is not None:
        raise ConfigError(f"run={config.run} and adapter={config.adapter} are both set; remove one")
    own = [item for item in given_overrides() if re.match(r"[+~]*backbone\b", item)]
    if own:
        raise ConfigError(
            f"run={config.run} brings its backbone; remove {', '.join(own)}, or set adapter instead of run"
        )
    config.backbone, config.adapter = run_model(config.run)
    return config


def open_output(config: DictConfig, answers_file: str, keys: Collection[str]) -> Path:
    """The output folder, its config written; raises ConfigError where it holds answers that another config gave.

    `answers_file` is the file of answers there, `keys` those of the config that decide them.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    path = folder / "config.yaml"
    if path.is_file() and (folder / answers_file).is_file():
        weights = None if config.adapter is None else Path(config.adapter) / "adapter_model.safetensors"
        if weights is not None and weights.is_file() and weights.stat().st_mtime > path.stat().st_mtime:
            raise ConfigError(
                f"output={folder} holds predictions that are older than {weights}; set another output, or delete them"
            )
        saved: Any = OmegaConf.to_container(OmegaConf.load(path))
        changed = [key for key in keys if saved.get(key) != plain.get(key)]
        if changed:
            raise ConfigError(
                f"output={folder} holds predictions of another config ({', '.join(changed)} differ); set another output"
            )
        return folder
    OmegaConf.save(config, path, resolve=True)
    return folder


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="infer")
def job(config: DictConfig) -> None:
    """Run one job."""
    infer(config)


def main() -> None:
    """Answer a test set as the command line says: `infer.py`, or `lookright-infer` where installed."""
    launch(job, "infer")


if __name__ == "__main__":
    main()
