"""The `trainer` group: hardware, precision and length of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lookright.errors import ConfigError
from lookright.runtime import torch_dtype

@dataclass(slots=True, kw_only=True)
class TrainerSettings:
    """How a run is trained.

    `model_dtype` is that of the frozen weights, `precision` Lightning's; `batch_pairs` of an optimiser step
    are reached by `accumulate_grad_batches`; `max_steps` -1 is no bound; `num_threads` for the CPU, null for
    torch's own choice; `plan` prints what a run would take and loads no weights.
    """

    accelerator: str = "cpu"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    model_dtype: str = "float32"
    max_epochs: int | None = 1
    max_steps: int = -1
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_checkpointing: bool = False
    val_check_interval: int | float | None = None
    checkpoint_every: int | None = None
    log_every_n_steps: int = 1
    num_threads: int | None = None
    progress_bar: bool = True
    deterministic: bool = False
    plan: bool = False

    def __post_init__(self) -> None:
        torch_dtype(self.model_dtype, "trainer.model_dtype")
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ConfigError("trainer.accelerator=gpu but no CUDA device is visible; set trainer=cpu")
        if self.accumulate_grad_batches < 1:
            raise ConfigError(f"trainer.accumulate_grad_batches={self.accumulate_grad_batches}; set 1 or more")
        if self.max_steps == 0 or self.max_steps < -1 or (self.max_epochs is None and self.max_steps < 0):
            raise ConfigError(
                f"trainer.max_steps={self.max_steps}, trainer.max_epochs={self.max_epochs}: nothing bounds the run, "
                "or nothing trains; set max_steps above 0, or max_epochs"
            )

    def build(self, folder: Path, logger: Any, has_validation: bool) -> Trainer:
        """A Lightning Trainer that writes checkpoints below `folder`."""
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self._strategy(),
            precision=self.precision,
            max_epochs=self.max_epochs,
            max_steps=self.max_steps,
            accumulate_grad_batches=self.accumulate_grad_batches,
            gradient_clip_val=self.gradient_clip_val,
            val_check_interval=self.val_check_interval if has_validation else None,
            limit_val_batches=1.0 if has_validation else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=self.log_every_n_steps,
            enable_progress_bar=self.progress_bar,
            enable_model_summary=False,
            deterministic=self.deterministic,
            use_distributed_sampler=False,
            default_root_dir=folder,
            logger=logger,
            callbacks=self._callbacks(folder),
        )

    def _callbacks(self, folder: Path) -> list[Callback]:
        checkpoints = ModelCheckpoint(
            dirpath=folder / "checkpoints",
            filename="step={step}",
            auto_insert_metric_name=False,
            save_last=True,
            every_n_train_steps=self.checkpoint_every,
            save_on_train_epoch_end=self.checkpoint_every is None,
        )
        bar = [TQDMProgressBar()] if self.progress_bar else []
        return [checkpoints, LearningRateMonitor("step"), *bar]

    def _strategy(self) -> str | Strategy:
        if self.strategy == "fsdp":
            return FSDPStrategy(use_orig_params=True, sharding_strategy="FULL_SHARD")
        if self.strategy.startswith("deepspeed_stage_"):
            return DeepSpeedStrategy(stage=int(self.strategy[-1]), exclude_frozen_parameters=True)
        return self.strategy
