"""What a config of `train.py` names, built and checked before any weights load."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig
from transformers import PreTrainedModel

from lookright.attention.band import layer_band
from lookright.backbones.base import Backbone
from lookright.commands.evaluating import Evaluation
from lookright.commands.logged import build_loggers
from lookright.commands.run_folder import is_first_process
from lookright.commands.watching import VALIDATION
from lookright.config.check import Problems, nearest_of
from lookright.config.inputs import ANSWERED_BY, Input, model_name, other_model
from lookright.config.references import origin
from lookright.errors import ConfigError
from lookright.losses.attention import AttentionLoss
from lookright.losses.composite import CompositeLoss
from lookright.reference.base import ModelPair
from lookright.training.callbacks import best_checkpoints, monitors
from lookright.training.datamodule import PreferenceData
from lookright.training.loggers import RunLogger
from lookright.training.optimization import Optimization
from lookright.training.preference import logged_metrics
from lookright.training.trainer import TrainerSettings
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning


@dataclass(slots=True, frozen=True, kw_only=True)
class TrainParts:
    """What a config names, everything but weights. `config` makes the reference, one for each pair."""

    config: DictConfig
    settings: TrainerSettings
    backbone: Backbone
    data: PreferenceData
    loss: CompositeLoss
    tuning: LoraTuning | FullTuning
    optimization: Optimization
    callbacks: dict[str, Callback]
    evaluation: Evaluation | None = None
    loggers: list[Logger] = field(default_factory=list)

    @property
    def idle_parameters(self) -> bool:
        """Whether some parameters that train may get no gradient from the loss."""
        # the attention term ends at the highest layer of its band; a tower's last layers may feed nothing
        only_attention = len(self.loss.attention_reads) == len(self.loss.terms)
        return only_attention or bool(getattr(self.tuning, "train_vision", False))

    def pair(self, model: PreTrainedModel) -> ModelPair:
        """Return policy and reference around a base model; the reference is there if the loss needs one."""
        policy = self.tuning.apply(self.backbone, model)
        reference = instantiate(self.config.reference) if self.loss.needs_reference else None
        return ModelPair(self.backbone, policy, reference)


def check_parts(config: DictConfig) -> TrainParts:
    """Build what the config names and try what needs no weights. Raises ConfigError with the problems of all parts."""
    problems = Problems(config)
    settings = problems.build("trainer", "all")
    backbone = problems.build("backbone")
    data = problems.build("data", "all")
    loss = problems.build("loss", "all")
    tuning = problems.build("tuning")
    problems.build("reference")
    with problems:
        if config.loss is None:
            raise ConfigError("loss is null; set loss=preference")
        if config.reference is None and loss is not None and loss.needs_reference:
            raise ConfigError("the loss compares with a reference; set reference=adapter_off, or loss.alpha=0")
    optimization = _optimization(problems)
    callbacks = _callbacks(problems)
    evaluation: Evaluation | None = problems.build("eval", "all")
    with problems:
        if evaluation is not None and backbone is not None:
            evaluation.check(backbone)
    with problems:
        if evaluation is not None and evaluation.every is not None and str(config.trainer.strategy).startswith("fsdp"):
            raise ConfigError("trainer=fsdp: no process has the whole policy to answer with; set eval.every=null")
    loggers = [] if settings is None or settings.plan else build_loggers(problems)
    problems.finish()
    assert optimization is not None
    parts = TrainParts(
        config=config,
        settings=settings,
        backbone=backbone,
        data=data,
        loss=loss,
        tuning=tuning,
        optimization=optimization,
        callbacks=callbacks,
        evaluation=evaluation,
        loggers=loggers,
    )
    for name, read in loss.attention_reads.items():
        layer_band(backbone.num_layers, read.layers, key=origin(config, f"loss.terms.{name}.term.layers"))
    # an adapter to go on from is read with the weights
    if config.tuning.get("adapter") is None:
        with torch.device("meta"):
            parts.pair(backbone.build(weights=False))
    for logger in loggers if is_first_process() else ():
        if isinstance(logger, RunLogger):
            logger.check()
    return parts


def check_monitors(parts: TrainParts) -> None:
    """Raise ConfigError where a callback monitors a metric that this run will not measure; records are read."""
    measured = logged_metrics(parts.loss, parts.data.val_set.records)
    # what a callback logs itself, it says
    measured += [name for one in parts.callbacks.values() for name in getattr(one, "logs", ())]
    if parts.evaluation is not None and len(parts.data.val_set):
        measured += parts.evaluation.watched
    unknown = {name: metric for name, metric in monitors(parts.callbacks).items() if metric not in measured}
    nothing_held_out = "" if len(parts.data.val_set) else "no pair is held out: set data.val_fraction or val_path; "
    hints = {"val": nothing_held_out, "eval": f"set eval=test_sets and eval.every=validation; {nothing_held_out}"}
    messages = [
        f"callbacks.{name}.monitor={metric!r} is not measured; "
        f"{hints.get(metric.partition('/')[0], '')}{nearest_of(metric, measured)}"
        for name, metric in unknown.items()
    ]
    if parts.evaluation is not None and parts.evaluation.every == VALIDATION and not len(parts.data.val_set):
        messages.append(f"eval.every={VALIDATION}: {nothing_held_out}or set a number of optimiser steps")
    if messages:
        raise ConfigError("\n".join(messages))


def check_formats(parts: TrainParts) -> None:
    """Raise ConfigError where an attention term holds formats of which no pair is; records are read."""
    there = sorted({record.format for record in parts.data.train_set.records if record.format})
    for name, part in parts.loss.terms.items():
        wanted = part.term.formats if isinstance(part.term, AttentionLoss) else None
        if wanted is not None and not wanted & set(there):
            key = origin(parts.config, f"loss.terms.{name}.term.formats")
            raise ConfigError(
                f"{key}=[{','.join(sorted(wanted))}]: no pair has such a format, and the term would train nothing; "
                f"the pairs have: {', '.join(there) or 'none'}"
            )


def tell_other_models(parts: TrainParts, inputs: Mapping[str, Input]) -> None:
    """Warn of pairs whose rejected answers another base model gave, where they say so; `inputs` are the run's."""
    pairs = [*parts.data.train_set.records, *parts.data.val_set.records]
    own, told = model_name(inputs), Counter(pair.provenance.get(ANSWERED_BY) for pair in pairs)
    for name, count in told.items():
        if isinstance(name, str) and other_model(name, own):
            rank_zero_warn(
                f"{count} of {len(pairs)} pairs hold answers of {name}, and backbone.path is {own}: what they reject, "
                "this model may never say; make pairs with it (generate.py backbone.path=...), or set backbone to the "
                "other one"
            )


def _optimization(problems: Problems) -> Optimization | None:
    """Optimiser and schedule of a config, tried on a parameter of no use; None where `problems` tells of a fault."""
    config = problems.config
    made: list[Any] = []
    for group in ("optimizer", "schedule"):
        with problems:
            made.append(_built(group, partial(problems.build, group, "all")))
    if len(made) < 2 or None in made:
        return None
    with problems:
        optimization = Optimization(optimizer=made[0], schedule=made[1], projector_lr=config.projector_lr)
        optimization.check()
        return optimization
    return None


def _callbacks(problems: Problems) -> dict[str, Callback]:
    """Callbacks of a config by name, without those that are null or that `problems` tells of."""
    nodes = problems.config.callbacks or {}
    found: dict[str, Callback] = {}
    for name in (name for name, node in nodes.items() if node is not None):
        with problems:
            one = _built(f"callbacks.{name}", partial(problems.build, f"callbacks.{name}", "all"))
            if one is None:
                continue
            if not isinstance(one, Callback):
                raise ConfigError(f"callbacks.{name}._target_={nodes[name]['_target_']} is no lightning.Callback")
            found[str(name)] = one
    save = problems.config.save
    with problems:
        if save not in ("last", "best"):
            raise ConfigError(f"save={save!r}; valid: last, best")
        if save == "best" and len(best_checkpoints(found)) != 1:
            raise ConfigError("save=best needs one callback that keeps the best; set callbacks=[best_checkpoint]")
        if save == "best" and str(problems.config.trainer.strategy).startswith(("fsdp", "deepspeed")):
            raise ConfigError("save=best reads a checkpoint of one file; set trainer=gpu or ddp, or save=last")
    return found


def _built(path: str, build: Callable[[], Any]) -> Any:
    """What `build` gives. Raises ConfigError, with the key, for what a class of a library refuses."""
    try:
        return build()
    except InstantiationException as error:
        if not isinstance(error.__cause__, TypeError | ValueError | MisconfigurationException):
            raise
        partial = "; without _partial_: true it is built without the model" if "missing" in str(error) else ""
        raise ConfigError(f"{path}: {error.__cause__}{partial}") from error
