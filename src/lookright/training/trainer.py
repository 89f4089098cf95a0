"""The `trainer` group: hardware, precision and length of a run."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy

from lookright.attention.kernels import check_kernel
from lookright.backbones.loading import DTYPES, has_bfloat16
from lookright.config.annotations import ArgumentsOf
from lookright.errors import ConfigError
from lookright.training.callbacks import LearningRate, RunProgressBar, StepSeed
from lookright.training.checkpoints import RunCheckpoints, WholeCheckpointIO
from lookright.training.guards import RefuseNonFinite, StopOnSignal
from lookright.training.precision import cpu_has_bfloat16, cpu_precision
from lookright.training.sharded import LayerwiseFSDP

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "16-true", "64-true")


NOT_PASSED = {
    "logger": "set logger=csv, tensorboard or wandb",
    "callbacks": "set callbacks=[early_stopping], say",
    "default_root_dir": "set output",
    "enable_progress_bar": "set trainer.progress_bar",
    "enable_checkpointing": "set trainer.checkpoint_every",
    "fast_dev_run": "set debug=steps, which also writes the files of a run",
    "barebones": "leave it out: a run's files hold what it measured",
    "use_distributed_sampler": "leave it out: ranks share the batches as it is",
    "reload_dataloaders_every_n_epochs": "leave it out: every epoch has its own order as it is",
    "limit_test_batches": "set trainer.limit_val_batches; test sets are for infer.py",
    "limit_predict_batches": "set trainer.limit_val_batches; test sets are for infer.py",
}
"""Arguments of Lightning's `Trainer` that something else sets, and what to do."""


class TrainerSettings:
    """How a run is trained.

    `model_dtype` is that of the frozen weights, `precision` Lightning's; an optimiser step takes
    `accumulate_grad_batches` batches of every device; `max_steps` -1 is no bound; `checkpoint_every` counts
    optimiser steps, None is once an epoch; `checkpoint_minutes` are the most that a killed run loses beside that, None
    for no such bound; `val_check_interval` is a share of an epoch or a number of batches;
    `num_threads` for the CPU, None for torch's own choice; `attention_kernel` is what attends the prompts (see
    `attention.kernels`); `compile` fuses what a decoder layer does to each token by itself; `plan` prints what a run
    would take and loads no weights. `lightning` is any other argument of Lightning's `Trainer`.
    """

    def __init__(
        self,
        *,
        accelerator: str = "cpu",
        devices: int | str | list[int] = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str = "32-true",
        model_dtype: str = "float32",
        max_epochs: int | None = 1,
        max_steps: int = -1,
        accumulate_grad_batches: int = 1,
        gradient_checkpointing: bool = False,
        val_check_interval: int | float | None = None,
        checkpoint_every: int | None = None,
        checkpoint_minutes: float | None = 10,
        log_every_n_steps: int = 1,
        num_threads: int | None = None,
        attention_kernel: str = "auto",
        compile: bool = False,
        progress_bar: bool = True,
        plan: bool = False,
        **lightning: Annotated[Any, ArgumentsOf(Trainer, NOT_PASSED)],
    ) -> None:
        self.accelerator, self.devices, self.num_nodes, self.strategy = accelerator, devices, num_nodes, strategy
        self.precision, self.model_dtype, self.num_threads = precision, model_dtype, num_threads
        self.max_epochs, self.max_steps, self.accumulate_grad_batches = max_epochs, max_steps, accumulate_grad_batches
        self.gradient_checkpointing, self.attention_kernel = gradient_checkpointing, attention_kernel
        self.val_check_interval, self.checkpoint_every = val_check_interval, checkpoint_every
        self.checkpoint_minutes = checkpoint_minutes
        self.log_every_n_steps, self.progress_bar = log_every_n_steps, progress_bar
        self.compile, self.plan = compile, plan
        self.lightning: dict[str, Any] = {"enable_model_summary": False, "num_sanity_val_steps": 0, **lightning}
        problems = list(self._problems())
        if problems:
            raise ConfigError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        try:
            check_kernel(self.attention_kernel)
        except ConfigError as error:
            yield str(error)
        if self.model_dtype not in DTYPES:
            yield f"trainer.model_dtype={self.model_dtype!r}; valid: {', '.join(DTYPES)}"
        if self.precision not in PRECISIONS:
            yield f"trainer.precision={self.precision!r}; valid: {', '.join(PRECISIONS)}"
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            yield "trainer.accelerator=gpu but no CUDA device is visible; set trainer=cpu"
        elif self.accelerator in ("gpu", "cuda"):
            yield from self._problems_of_bfloat16()
        if self.compile and self.accelerator == "cpu" and self.precision.startswith("bf16") and not cpu_has_bfloat16():
            yield (
                f"trainer.compile=true, precision={self.precision}: this CPU has no bfloat16 units, and compiled "
                "blocks would multiply in plain loops; set trainer.precision=32-true or trainer.compile=false"
            )
        for key in ("accumulate_grad_batches", "checkpoint_every", "log_every_n_steps", "num_threads", "num_nodes"):
            value = getattr(self, key)
            if value is not None and value < 1:
                yield f"trainer.{key}={value}; set 1 or more"
        if isinstance(self.devices, int) and self.devices < 1 and self.devices != -1:
            yield f"trainer.devices={self.devices}; set 1 or more, or auto for all that are there"
        if self.checkpoint_minutes is not None and self.checkpoint_minutes <= 0:
            yield f"trainer.checkpoint_minutes={self.checkpoint_minutes}; set more than 0, or null"
        if self.max_steps == 0 or self.max_steps < -1 or (self.max_epochs is None and self.max_steps < 0):
            yield (
                f"trainer.max_steps={self.max_steps}, trainer.max_epochs={self.max_epochs}: nothing bounds the run, "
                "or nothing trains; set max_steps above 0, or max_epochs"
            )
        if self.max_epochs is not None and self.max_epochs < 1:
            yield f"trainer.max_epochs={self.max_epochs}; set 1 or more, or null with max_steps"

    def _problems_of_bfloat16(self) -> Iterator[str]:
        """What asks for a type that the GPU lacks; Lightning and torch would go on, many times slower."""
        keys = {"precision": "16-mixed", "model_dtype": "float16"}
        asked = [key for key in keys if str(getattr(self, key)).startswith(("bf16", "bfloat16"))]
        if asked and not has_bfloat16(torch.device("cuda", torch.cuda.current_device())):
            given = ", ".join(f"trainer.{key}={getattr(self, key)}" for key in asked)
            instead = " ".join(f"trainer.{key}={keys[key]}" for key in asked)
            yield (
                f"{given}: {torch.cuda.get_device_name()} has no units for bfloat16; set {instead} for adapters, or "
                "trainer.precision=32-true trainer.model_dtype=float32"
            )

    def build(
        self,
        folder: Path,
        logger: Any,
        *,
        seed: int,
        has_validation: bool,
        idle_parameters: bool,
        callbacks: Sequence[Callback] = (),
        script: str = "train.py",
    ) -> Trainer:
        """A Lightning Trainer that writes checkpoints below `folder`. Raises ConfigError for what Lightning refuses.

        `idle_parameters`: some parameters that train get no gradient from the loss, which DDP must be told.
        `callbacks` run beside our own; `script` is what `python` goes on with a stopped run by.
        """
        options = dict(self.lightning)
        if not has_validation:
            options["limit_val_batches"] = 0
        given = options.pop("plugins", None) or []
        plugins = list(given) if isinstance(given, list) else [given]
        if not any(isinstance(one, CheckpointIO) for one in plugins):
            plugins.append(WholeCheckpointIO())
        own = cpu_precision(self.precision) if self.accelerator == "cpu" else None
        plugins += [] if own is None else [own]
        try:
            return Trainer(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self._strategy(idle_parameters),
                precision=self.precision if own is None else None,
                plugins=plugins,
                max_epochs=self.max_epochs,
                max_steps=self.max_steps,
                accumulate_grad_batches=self.accumulate_grad_batches,
                val_check_interval=self.val_check_interval if has_validation else None,
                log_every_n_steps=self.log_every_n_steps,
                enable_progress_bar=self.progress_bar,
                use_distributed_sampler=False,
                default_root_dir=folder,
                logger=logger,
                callbacks=self._callbacks(folder, seed, callbacks, f"python {script} resume={folder}"),
                **options,
            )
        except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
            raise ConfigError(f"trainer: {error}") from error

    def check_validation(self, num_batches: int) -> None:
        """Raise ConfigError where no validation would fit an epoch of `num_batches` batches."""
        value = self.val_check_interval
        # null counts batches over all epochs
        most = math.inf if self.lightning.get("check_val_every_n_epoch", 1) is None else num_batches
        valid = value is None or (0 < value <= 1 if isinstance(value, float) else 1 <= value <= most)
        if not valid:
            raise ConfigError(
                f"trainer.val_check_interval={value}; an epoch has {num_batches} batches: set a whole number of them, "
                "a share such as 0.5, or null for once an epoch"
            )

    def _callbacks(self, folder: Path, seed: int, further: Sequence[Callback], command: str) -> list[Callback]:
        # what trains is then taken from the last one
        at_epoch_ends = self.strategy == "fsdp"
        checkpoints = RunCheckpoints(folder, self.checkpoint_every, self.checkpoint_minutes, at_epoch_ends)
        guards = [StopOnSignal(checkpoints, command), RefuseNonFinite(checkpoints)]
        bar = [RunProgressBar()] if self.progress_bar else []
        # ours is the last to save: what the others found out is then in the checkpoint that a run goes on from
        return [StepSeed(seed), LearningRate(), *bar, *further, *guards, checkpoints]

    def _strategy(self, idle_parameters: bool) -> str | Strategy:
        if self.strategy == "ddp":
            return DDPStrategy(find_unused_parameters=idle_parameters)
        if self.strategy == "fsdp":
            return LayerwiseFSDP()
        if self.strategy.startswith("deepspeed_stage_3"):
            raise ConfigError(
                f"trainer.strategy={self.strategy}: every process holds a part of the weights there, and saving them "
                "whole was never seen to work; set trainer=deepspeed_zero2, or trainer=fsdp"
            )
        if self.strategy.startswith("deepspeed_stage_"):
            return DeepSpeedStrategy(stage=int(self.strategy[-1]), exclude_frozen_parameters=True)
        return self.strategy
