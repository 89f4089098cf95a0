"""`train.py` from a composed config to the files of a run."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from omegaconf import DictConfig

from lookright.attention.kernels import use_prefix_kernel
from lookright.backbones.adapters import PeftModel
from lookright.backbones.loading import describe_weights, torch_dtype
from lookright.commands.cli import start
from lookright.commands.evaluating import infer_config, objective_of
from lookright.commands.logged import example_callbacks, tell_config, tell_results
from lookright.commands.measuring import METRICS_FILE as MEASURED_FILE
from lookright.commands.repeating import Earlier
from lookright.commands.run_folder import (
    REPORT_FILE,
    SUMMARY_FILE,
    describe_best,
    how_to_go_on,
    is_first_process,
    open_folder,
    run_config,
    summarise,
    write_page,
    write_summary,
)
from lookright.commands.train_parts import TrainParts, check_formats, check_monitors, check_parts, tell_other_models
from lookright.common.files import whole_files
from lookright.common.locks import locked
from lookright.common.stopping import end_with_run, starts_ranks, stoppable
from lookright.config.entry import given_overrides
from lookright.config.inputs import Input, inputs_of, pictures_of
from lookright.config.made_by import MadeBy, describe_data, made_by
from lookright.errors import ConfigError
from lookright.records.used import used_pictures
from lookright.reference.base import ModelPair
from lookright.reports.training import HeldOutPair
from lookright.training.callbacks import best_checkpoints
from lookright.training.checkpoints import newest_whole
from lookright.training.compilation import compile_blocks
from lookright.training.guards import memory_told
from lookright.training.loggers import closing, with_metrics_file
from lookright.training.optimization import count_steps, limited
from lookright.training.plan import print_plan
from lookright.training.preference import PreferenceModule, prepare_reference
from lookright.training.sharded import LayerwiseFSDP

SCRIPT = "train.py"
SHOWN_GROUPS = ("loss", "reference", "tuning", "optimizer", "schedule", "callbacks", "trainer")
"""Whose values the page shows."""


def train(config: DictConfig) -> dict[str, Any]:
    """Train as configured; returns what `summary.json` holds.

    Config, records and pictures are checked before weights load. A `resume` run takes its own saved config.
    Of several processes the first one alone writes, and where one fails all end. Raises Stopped where a signal ends it.
    """
    end_with_run()
    config = run_config(config)
    folder = Path(config.output)
    # check: everything that can be told without records and weights
    parts = check_parts(config)
    writes = is_first_process() and not parts.settings.plan
    with stoppable(lambda: how_to_go_on(folder, SCRIPT)), locked(folder) if writes else nullcontext():
        return _train(parts)


def _train(parts: TrainParts) -> dict[str, Any]:
    config, data = parts.config, parts.data
    # one process looks, as one writes
    looks = config.repeat is not None and is_first_process()
    earlier = Earlier(config.repeat, given_overrides()) if looks else None
    if earlier is not None:
        earlier.check(inputs_of(config))

    # read: records and pictures
    data.prepare(parts.backbone, needs_target=parts.loss.needs_attention)
    if parts.evaluation is not None:
        parts.evaluation.prepare(parts.backbone)
    check_monitors(parts)
    check_formats(parts)

    # build: the trainer, then policy and reference with their weights
    trainer = _trainer(parts)
    num_steps = _count_steps(parts, trainer)
    if parts.settings.plan:
        return print_plan(config, parts.backbone, data, num_steps)
    if earlier is not None:
        earlier.check(_pictures(parts))
        earlier.tell(made_by(config, SCRIPT, describe_data(config.data)))
    with closing(trainer.loggers):
        return _fit(parts, trainer, num_steps)


def _fit(parts: TrainParts, trainer: Trainer, num_steps: int) -> dict[str, Any]:
    """What a run does and logs once its folder is its own."""
    config, data, folder = parts.config, parts.data, Path(parts.config.output)
    checkpoint = open_folder(config, trainer, lambda: _record(parts))
    if trainer.is_global_zero:
        tell_config(trainer.loggers, config)
    started = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    module = _module(parts, num_steps)

    # fit, from the beginning or from the newest checkpoint
    prepare_reference(module, data, trainer)
    if trainer.world_size > 1 and trainer.local_rank == 0:
        starts_ranks()
    with memory_told(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    # save; where nothing was left to train, what the finished run measured stays
    trained = checkpoint is None or trainer.callback_metrics or not (folder / SUMMARY_FILE).is_file()
    if trained:
        summary = summarise(trainer, data, num_steps, time.perf_counter() - started)
    else:
        summary = json.loads((folder / SUMMARY_FILE).read_text())
    if trainer.is_global_zero:
        best = best_checkpoints(parts.callbacks)
        if best and trained:
            summary["best"] = {name: describe_best(one, folder) for name, one in best.items() if one.best_model_path}
        pair = whole_pair(parts, module.pair, newest_whole(folder))
        summary["saved"] = _take_best(pair, *best.values()) if config.save == "best" else "last"
        summary["weights"] = _save(pair, folder)
        if parts.evaluation is None:
            summary["objective"] = objective_of(None, summary)
        write_summary(folder, summary)
        if trained:
            write_page(config, summary, SHOWN_GROUPS, _held_out_pairs(module, parts))
        rank_zero_info(f"wrote {folder / summary['weights']}, {folder / SUMMARY_FILE} and {folder / REPORT_FILE}")
        if parts.evaluation is not None:
            summary |= _evaluate(parts, pair, summary, anew=bool(trained))
            write_summary(folder, summary)
            tell_results(trainer.loggers, summary["eval"], trainer.global_step)
    return summary


def _record(parts: TrainParts) -> MadeBy:
    """What makes the run, for its folder; records are read."""
    record = made_by(parts.config, SCRIPT, describe_data(parts.config.data))
    tell_other_models(parts, record.inputs)
    return replace(record, inputs=record.inputs | _pictures(parts))


def _pictures(parts: TrainParts) -> dict[str, Input]:
    """The pictures that a run takes, as its record tells them; records are read."""
    config, data = parts.config, parts.data
    pairs = chain(data.train_set.pairs, data.val_set.pairs)
    found = {pictures_of("data"): used_pictures(describe_data(config.data), pairs)}
    if parts.evaluation is not None:
        asked = parts.evaluation.questions.places()
        found[pictures_of("eval", "data")] = used_pictures(describe_data(config.eval.data), asked)
    return found


def _evaluate(parts: TrainParts, pair: ModelPair, summary: dict[str, Any], anew: bool) -> dict[str, Any]:
    """What the test sets say of the policy, for `summary.json`; the other ranks have ended, or wait for this one."""
    assert parts.evaluation is not None and parts.data.trainer is not None
    device = parts.data.trainer.strategy.root_device
    config = infer_config(parts.config, summary["weights"], device)
    result = parts.evaluation.run(parts.backbone, pair.policy, device, config, Path(config.output), anew)
    rank_zero_info(f"wrote {Path(config.output) / MEASURED_FILE} and {Path(config.output) / REPORT_FILE}")
    told = {"eval": parts.evaluation.main_numbers(result)}
    return told | {"objective": objective_of(parts.evaluation, told)}


def _trainer(parts: TrainParts) -> Trainer:
    """The Lightning Trainer of the run, and the settings of the process that a run needs."""
    config, settings = parts.config, parts.settings
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    use_prefix_kernel(settings.attention_kernel)
    folder = Path(config.output)
    watching = None if parts.evaluation is None else parts.evaluation.watch(parts.backbone)
    watch = [] if watching is None else [watching]
    trainer = settings.build(
        folder,
        [] if settings.plan else with_metrics_file(parts.loggers, folder),
        seed=config.seed,
        has_validation=len(parts.data.val_set) > 0,
        idle_parameters=parts.idle_parameters,
        callbacks=[*watch, *parts.callbacks.values(), *example_callbacks(parts.loggers, parts.data.val_set)],
    )
    _refuse_sweep(trainer)
    return trainer


def _module(parts: TrainParts, num_steps: int) -> PreferenceModule:
    """Base weights, adapters, reference, and what the trainer's settings do to the model."""
    settings, backbone = parts.settings, parts.backbone
    model = backbone.build(dtype=torch_dtype(settings.model_dtype, "trainer.model_dtype"))
    assert parts.data.trainer is not None
    rank_zero_info(describe_weights(model, parts.data.trainer.strategy.root_device))
    pair = parts.pair(model)
    none = "reference: none, no active loss term needs one"
    rank_zero_info(none if pair.reference is None else pair.reference.describe())
    if settings.gradient_checkpointing:
        pair.model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_blocks(backbone.language_model(pair.model))
    return PreferenceModule(pair, parts.loss, parts.optimization, num_steps)


def _count_steps(parts: TrainParts, trainer: Trainer) -> int:
    """Optimiser steps of the run. The trainer tells the data how many processes share them."""
    settings, data = parts.settings, parts.data
    data.trainer = trainer
    num_batches = limited(len(data.train_dataloader()), trainer.limit_train_batches)
    if num_batches == 0:
        raise ConfigError(f"trainer.limit_train_batches={trainer.limit_train_batches} leaves no batch; raise it")
    if len(data.val_set):
        settings.check_validation(num_batches)
    return count_steps(num_batches, settings.accumulate_grad_batches, settings.max_epochs, settings.max_steps)


def _take_best(pair: ModelPair, keeper: ModelCheckpoint) -> str:
    """Put the best weights that a callback kept into the policy; returns which weights it then has."""
    if not keeper.best_model_path:
        rank_zero_warn("save=best: the run ended before a validation, so the last weights are saved")
        return "last"
    _take(pair, Path(keeper.best_model_path))
    return "best"


def _take(pair: ModelPair, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the policy."""
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    kept = {name.removeprefix("pair.policy."): value for name, value in kept.items()}
    trained = {name for name, parameter in pair.policy.named_parameters() if parameter.requires_grad}
    assert kept.keys() == trained, "a checkpoint holds all that trains"
    pair.policy.load_state_dict(kept, strict=False)


def whole_pair(parts: TrainParts, pair: ModelPair, checkpoint: Path | None) -> ModelPair:
    """The policy with all of its weights: where ranks share them out, built anew with those of a checkpoint."""
    trainer = parts.data.trainer
    if trainer is None or not isinstance(trainer.strategy, LayerwiseFSDP):
        return pair
    assert checkpoint is not None, "every epoch ends with one"
    model = parts.backbone.build(dtype=torch_dtype(parts.settings.model_dtype, "trainer.model_dtype"))
    pair = ModelPair(parts.backbone, parts.tuning.apply(parts.backbone, model), None)
    _take(pair, checkpoint)
    return pair


def _save(pair: ModelPair, folder: Path) -> str:
    """Write `adapter/` in PEFT's format, or `model/` after full tuning, whole or not at all; returns its name."""
    name = "adapter" if isinstance(pair.policy, PeftModel) else "model"
    with whole_files(folder / name) as made:
        if isinstance(pair.policy, PeftModel):
            pair.policy.save_pretrained(str(made))
        else:
            pair.backbone.save_pretrained(pair.policy, made)
    return name


def _held_out_pairs(module: PreferenceModule, parts: TrainParts) -> list[HeldOutPair]:
    """All that were validated, as the last validation found them."""
    val_set = parts.data.val_set
    return [
        HeldOutPair(record=record, pictures=pictures, metrics=module.held_out[record.id][1])
        for record, pictures in zip(val_set.records, val_set.pictures, strict=True)
        if record.id in module.held_out
    ]


def _refuse_sweep(trainer: Trainer) -> None:
    """Each process of a distributed run starts the command line again, and with it the whole sweep."""
    if trainer.world_size == 1 or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    if HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
        raise ConfigError(
            f"-m runs its jobs in one process, and trainer.devices={trainer.num_devices} needs more; "
            "set hydra/launcher=local or hydra/launcher=slurm"
        )


def job(config: DictConfig) -> float | None:
    """Run one job; returns what a sweeper optimises, None where nothing was measured."""
    return train(config).get("objective", {}).get("value")


if __name__ == "__main__":
    start("train", job)
