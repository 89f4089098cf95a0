"""What a run does around its steps: random numbers, learning rate, progress bar."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from lookright.common.hashing import stable_hash


class StepSeed(Callback):
    """Random numbers of a step (dropout) depend on the run's seed, the rank, the epoch and the batch alone.

    So a run that was killed goes on exactly as it would have: no generator's state has to be kept, of any rank.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the generators of the CPU and of the device."""
        del pl_module, batch
        place = f"{self.seed}/{trainer.global_rank}/{trainer.current_epoch}/{batch_idx}"
        torch.manual_seed(stable_hash(place, 7))


class LearningRate(Callback):
    """Logs `train/learning_rate`, that of the first parameter group, in the row of the step that it was used for."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the optimiser steps the schedule."""
        del batch, batch_idx
        pl_module.log("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)


class RunProgressBar(TQDMProgressBar):
    """Lightning's bar, which also knows rate and remaining time where a run goes on in the middle of an epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning sets the total only where an epoch starts."""
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.total = self.total_train_batches
        bar.initial = bar.n = trainer.fit_loop.epoch_loop.batch_progress.current.processed % bar.total
        bar.set_description(f"Epoch {trainer.current_epoch}")
