"""What a run does around its steps: random numbers, learning rate, progress bar; and what `callbacks` adds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from lookright.common.files import write_whole
from lookright.common.hashing import stable_hash
from lookright.errors import ParameterError


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


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, of which a run that it ended stays ended when it is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning forgets that the run was to stop, and would train until the next validation."""
        del pl_module
        if self.wait_count >= self.patience or self.stopped_epoch > 0:
            trainer.should_stop = True


class OperatorProfile(Callback):
    """Profiles operators of `num_batches` training batches, the first `skip` left out, on the first process.

    Writes `profile/operators.txt`, the slowest first, and `profile/trace.json` into the run's folder.
    Raises ParameterError for numbers that profile nothing.
    """

    def __init__(self, skip: int = 2, num_batches: int = 3, profile_memory: bool = True) -> None:
        if skip < 0:
            raise ParameterError("skip", f"={skip}; set 0 or more")
        if num_batches < 1:
            raise ParameterError("num_batches", f"={num_batches}; set 1 or more")
        self.skip, self.num_batches, self.profile_memory = skip, num_batches, profile_memory
        self._num_seen = 0
        self._profile: torch.profiler.profile | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin."""
        del pl_module, batch, batch_idx
        if self._num_seen == self.skip and trainer.is_global_zero:
            self._profile = torch.profiler.profile(profile_memory=self.profile_memory)
            self._profile.start()
        self._num_seen += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End and write."""
        del pl_module, outputs, batch, batch_idx
        if self._num_seen == self.skip + self.num_batches:
            self._write(Path(trainer.default_root_dir))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write what a shorter run, or one that broke, has."""
        del pl_module, stage
        if 0 < self._num_seen <= self.skip:
            rank_zero_warn(
                f"callbacks.profiler.skip={self.skip}: the run had {self._num_seen} batches, none is profiled"
            )
        self._write(Path(trainer.default_root_dir))

    def _write(self, folder: Path) -> None:
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        (folder / "profile").mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(folder / "profile" / "trace.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=50)
        write_whole(folder / "profile" / "operators.txt", table)


def monitors(given: Mapping[str, Callback]) -> dict[str, str]:
    """The metric that each callback monitors, by its name in the config; None is no metric."""
    found = {name: getattr(one, "monitor", None) for name, one in given.items()}
    return {name: metric for name, metric in found.items() if metric is not None}


def best_checkpoints(given: Mapping[str, Callback]) -> dict[str, ModelCheckpoint]:
    """Callbacks that keep a checkpoint by a metric."""
    return {
        name: one
        for name, one in given.items()
        if isinstance(one, ModelCheckpoint) and one.monitor is not None and one.save_top_k != 0
    }
