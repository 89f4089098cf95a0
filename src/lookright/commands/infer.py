"""`infer.py` from a composed config to predictions, metrics and a report."""

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer, check_answering
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.loading import dtype_key, load_policy, placing, use_threads
from lookright.commands.cli import start
from lookright.commands.infer_sweep import infer_sweep, is_sweep
from lookright.commands.measuring import (
    ANSWERS_FILE,
    METRICS_FILE,
    REPORT_FILE,
    headline,
    join_shards,
    measure,
    predict,
)
from lookright.common.jsonl import write_atomically
from lookright.common.stopping import stoppable
from lookright.composing.workspace import Workspace, only_writer
from lookright.config.check import Problems
from lookright.config.entry import with_output
from lookright.config.inputs import pictures_of
from lookright.config.made_by import MadeBy, describe_data, made_by, refuse_other_inputs
from lookright.config.runs import CONFIG_FILE, NOTHING, read_config, refuse_other_command, with_run
from lookright.errors import ConfigError
from lookright.evaluation.judge import Judge
from lookright.evaluation.overlap import run_config_of, trained_on_warning, tuned_on_warning
from lookright.evaluation.predictions import build_metrics
from lookright.evaluation.questions import Questions
from lookright.records.used import used_pictures

log = logging.getLogger(__name__)
KEYS = ("backbone", "adapter", "data", "decode", "dtype", "ratio_layer", "ratio_rows", "seed", "metrics")
"""What the predictions of a folder depend on."""
STAGES = ("answer", "measure")


def infer(config: DictConfig) -> dict[str, Any] | None:
    """Answer a test set; returns what `metrics.json` holds, None where nothing was measured.

    `run` names a training run, whose backbone and adapter are taken; `adapter` an adapter folder; with
    neither the base model answers. Predictions are appended as they come, so a killed run goes on.
    With several shards each answers its part; `stage=measure` then joins them. Where `run` names a whole sweep, its
    finished runs do this one after the other, each in a folder of its own; what they measure is returned by run.
    """
    config = with_output(config)
    if is_sweep(config.run):
        return infer_sweep(config, check=lambda one: _Parts(with_run(one.copy())), answer=_infer_run)
    return _infer_run(config)


def _infer_run(config: DictConfig) -> dict[str, Any] | None:
    config = with_run(config)
    parts = _Parts(config)
    folder = Path(config.output)
    with (
        stoppable(lambda: f"what is answered stays; go on with the same command and output={folder}"),
        only_writer(parts.workspace, joins=config.stage == "measure"),
    ):
        return _infer(config, parts)


def _infer(config: DictConfig, parts: "_Parts") -> dict[str, Any] | None:
    workspace, measures = parts.workspace, "measure" in parts.stages
    use_threads(config.num_threads)
    parts.questions.prepare(parts.backbone)
    parts.decoder.check(parts.backbone, (prompt for _, prompts in parts.questions.groups() for prompt in prompts))
    parts.metrics.check(parts.questions.prompts)
    folder = open_output(config, ANSWERS_FILE, KEYS)
    record = _record(config, parts.questions)
    record.write(folder, workspace.record_name(joins=config.stage == "measure"))
    warnings = _warnings(config, parts.questions)
    # weights load for answers and heat maps, and not where there are none to make
    answerer = cache(lambda: _answerer(config, parts))
    if "answer" in parts.stages:
        predict(answerer(), parts.questions, parts.metrics, workspace)
    if not measures:
        _tell_answered(workspace)
        return None
    join_shards(workspace, parts.questions)
    result = measure(answerer, parts.questions, parts.metrics, parts.num_examples, folder, record, warnings)
    print(headline(parts.metrics, result))
    print(f"wrote {folder / ANSWERS_FILE}, {folder / METRICS_FILE} and {folder / REPORT_FILE}")
    return result


def _warnings(config: DictConfig, questions: Questions) -> list[str]:
    """Say, and return, which questions were met before."""
    found = tuned_on_warning(config.decode, questions.prompts)
    origin = config.run or config.adapter
    found += trained_on_warning(run_config_of(config.run, config.adapter), questions, origin)
    for warning in found:
        log.warning("%s", warning)
    return found


def _answerer(config: DictConfig, parts: "_Parts") -> Answerer:
    return Answerer(
        backbone=parts.backbone,
        policy=load_policy(parts.backbone, config.adapter, parts.device, parts.dtype),
        decoder=parts.decoder,
        ratio_layer=parts.ratio_layer,
        batch_size=config.batch_size,
        ratio_rows=config.ratio_rows,
        unreadable=parts.questions.leave_out,
    )


def _tell_answered(workspace: Workspace) -> None:
    if workspace.num_shards > 1:
        print(f"shard {workspace.shard} of {workspace.num_shards} is done; stage=measure joins all of them")
    else:
        print(f"wrote {workspace.predictions}; stage=measure makes its numbers")


def _record(config: DictConfig, questions: Questions) -> MadeBy:
    """What makes the run, for its folder, with the pictures that are asked about; questions are read."""
    record = made_by(config, "infer.py", describe_data(config.data))
    pictures = used_pictures(record.data, questions.places())
    return replace(record, inputs=record.inputs | {pictures_of("data"): pictures})


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device, self.dtype = placing(config.device, config.dtype)
            # what answers depend on is saved as it was, not as `auto`
            config.dtype = dtype_key(self.dtype)
        with problems:
            check_adapter(config.adapter)
        with problems:
            self.stages = _stages(config)
        with problems:
            self.workspace = Workspace(
                folder=Path(config.output),
                shard=config.shard.index,
                num_shards=config.shard.count,
                batch_size=config.batch_size,
            )
        with problems:
            if config.overlays < 0:
                raise ConfigError(f"overlays={config.overlays}; set 0 or more")
        self.num_examples: int = config.overlays
        self.decoder = problems.build("decode")
        self.metrics = build_metrics(problems)
        self.questions: Questions = problems.build("data", "all")
        self.backbone: Backbone = problems.build("backbone")
        self.ratio_layer = check_answering(problems, self.backbone, self.decoder)
        problems.finish()


def _stages(config: DictConfig) -> tuple[str, ...]:
    """The stages of a run; a shard of several measures nothing by itself."""
    if config.stage not in ("all", *STAGES):
        raise ConfigError(f"stage={config.stage!r}; valid: all, {', '.join(STAGES)}")
    if config.stage == "all":
        return STAGES if config.shard.count == 1 else STAGES[:1]
    return (config.stage,)


def open_output(config: DictConfig, answers_file: str, keys: Collection[str]) -> Path:
    """The output folder, its config written; raises ConfigError where it holds a run of another command, or answers
    that another config gave.

    `answers_file` is the file of answers there, `keys` those of the config that decide them.
    """
    folder = Path(config.output)
    refuse_other_command(folder, "output", config)
    folder.mkdir(parents=True, exist_ok=True)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    path = folder / CONFIG_FILE
    shards = list(folder.glob(f"shards/{Path(answers_file).stem}-*"))
    # one shard may have begun before another has an answer
    several = (plain.get("shard") or {}).get("count", 1) > 1
    if path.is_file() and (shards or several or (folder / answers_file).is_file()):
        saved: Any = OmegaConf.to_container(read_config(folder, "output", builds=NOTHING))
        changed = [key for key in keys if _deciding(saved, key) != _deciding(plain, key)]
        changed += _changed_shards(saved, plain)
        if changed:
            raise ConfigError(
                f"output={folder} holds predictions of another config ({', '.join(changed)} differ); set another output"
            )
        refuse_other_inputs(folder, config, keys)
        if saved.get("metrics") != plain.get("metrics"):
            write_atomically(path, [OmegaConf.to_yaml(OmegaConf.create(saved | {"metrics": plain.get("metrics")}))])
        return folder
    write_atomically(path, [OmegaConf.to_yaml(config, resolve=True)])
    return folder


def _deciding(config: dict[str, Any], key: str) -> Any:
    """What answers depend on of a key: of the metrics all but judges, which read answers that are there."""
    value = config.get(key)
    if key != "metrics" or not isinstance(value, dict):
        return value
    judge = f"{Judge.__module__}.{Judge.__qualname__}"
    return {name: node for name, node in value.items() if node is None or node.get("_target_") != judge}


def _changed_shards(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What shares questions out in another way."""
    count, before = ((one.get("shard") or {}).get("count", 1) for one in (now, saved))
    if count != before:
        return ["shard.count"]
    return ["batch_size"] if count > 1 and saved["batch_size"] != now["batch_size"] else []


def job(config: DictConfig) -> None:
    """Run one job."""
    infer(config)


if __name__ == "__main__":
    start("infer", job)
