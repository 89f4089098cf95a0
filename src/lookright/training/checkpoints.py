"""Checkpoints of a run: written whole, the newest kept, the newest whole one found again."""

import os
import re
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lookright.common.files import naming

CHECKPOINT_FOLDER = "checkpoints"
KEPT = 2
"""Newest checkpoints that stay: one to go on from, and one in case a disk gives back less than it took."""
TEMPORARY = ".tmp"
DEEPSPEED_LAST = "latest"
"""What DeepSpeed writes into the folder of a checkpoint when all else is in it."""
METRICS = "metrics"
"""Key of a checkpoint under which the metrics stand that were measured so far."""
NUM_RANKS = "num_ranks"
"""Key under which it says how many processes shared its batches."""


class WholeCheckpointIO(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, whenever the process or the machine ends.

    It is written beside its target, since a move from another file system is a copy that a kill can tear, reaches the
    disk, and is renamed then.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises OSError where the disk refuses; what was at `path` stays as it was."""
        del storage_options
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            with naming(path), temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


class RunCheckpoints(Checkpoint):
    """Saves `checkpoints/step=N.ckpt` every `every_steps` optimiser steps (None: once an epoch) and, beside that,
    `every_minutes` after the last one (None: never).

    What is due is saved where the next batch starts or the epoch ends: a validation that follows the step is over by
    then, and a run that goes on from there neither loses nor repeats its rows. With `at_epoch_ends` the last step of
    the run is in a checkpoint for sure.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        at_epoch_ends: bool = False,
    ) -> None:
        self.folder = folder / CHECKPOINT_FOLDER
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.at_epoch_ends = at_epoch_ends or every_steps is None
        self.metrics: dict[str, float] = {}
        """What a run that goes on had measured."""
        self._saved_step, self._saved_at = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steps and time count from here."""
        del pl_module
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save what is due, but never within an accumulation: its gradients are in no checkpoint."""
        del pl_module, batch
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what is due."""
        del pl_module
        if self.at_epoch_ends or self._due(trainer):
            self.save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put in where the run goes on, and what it measured."""
        del pl_module
        checkpoint[NUM_RANKS] = trainer.world_size
        checkpoint[METRICS] = self.metrics | {name: float(value) for name, value in trainer.callback_metrics.items()}
        at_last_step(trainer, checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what was measured: a run may go on where no validation is left."""
        del trainer, pl_module
        self.metrics = dict(checkpoint.get(METRICS, {}))

    def save(self, trainer: Trainer) -> Path | None:
        """Write the checkpoint of the last optimiser step, of all ranks together, and remove old ones.

        Returns where it lies, None where there was no step.
        """
        step = trainer.global_step
        if step == 0:
            return None
        path = self.folder / f"step={step}.ckpt"
        # what a run went on from is there already
        if step != self._saved_step or not trainer.strategy.broadcast(path.exists()):
            trainer.save_checkpoint(path, weights_only=False)
        self._saved_step, self._saved_at = step, time.monotonic()
        if trainer.is_global_zero:
            for old in steps_in(self.folder)[KEPT:]:
                trainer.strategy.remove_checkpoint(old)
            # of a process that was killed while it wrote
            for torn in self.folder.glob(f"*{TEMPORARY}"):
                torn.unlink(missing_ok=True)
        return path

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if step == self._saved_step:
            return False
        if self.every_steps is not None and step // self.every_steps > self._saved_step // self.every_steps:
            return True
        if self.every_minutes is None:
            return False
        # one clock decides for all ranks
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_minutes))


def batches_done(trainer: Trainer) -> int:
    """Batches of this epoch that its optimiser steps took; those of a step that is not taken do not count."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return done if done >= trainer.num_training_batches else done - done % trainer.accumulate_grad_batches


def at_last_step(trainer: Trainer, loop: dict[str, Any]) -> None:
    """Put the progress in a checkpoint, `loop`, to behind the last optimiser step and its validation.

    Lightning goes on exactly from two places alone: the end of a batch (as where `on_train_batch_end` saves) and the
    end of an epoch. Elsewhere it counts a batch or a logged step too many, so the counters are set as they are there.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    # `processed` is ahead where an epoch ends
    epoch, done = trainer.fit_loop.epoch_progress.current.completed, batches_done(trainer)
    total = batches["total"]["processed"] - (batches["current"]["processed"] - done)
    if done == 0 and epoch > 0:
        epoch, done = epoch - 1, trainer.num_training_batches
    whole = done >= trainer.num_training_batches
    # with a bound on steps Lightning restarts inside of the epoch, however much of it is done
    epoch_end = whole and trainer.max_steps == -1
    for counts in (epochs["total"], epochs["current"]):
        counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch + epoch_end, completed=epoch)
    for counts, number in ((batches["total"], total), (batches["current"], done)):
        counts.update(ready=number, started=number, processed=number, completed=number - (not epoch_end))
    batches["is_last_batch"] = whole
    # counted on where it restarts within an epoch
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - (not epoch_end)


def steps_in(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the newest first."""
    numbered = [(re.fullmatch(r"step=(\d+)\.ckpt", path.name), path) for path in folder.glob("step=*.ckpt")]
    return [path for _, path in sorted(((int(found[1]), path) for found, path in numbered if found), reverse=True)]


def newest_whole(run: Path) -> Path | None:
    """The newest checkpoint of a run that can be read, None where there is none; a word about each that cannot."""
    for path in steps_in(run / CHECKPOINT_FOLDER):
        try:
            step_of(path)
        # whatever a damaged file makes torch's reader raise
        except Exception as error:
            rank_zero_warn(f"{path} cannot be read ({str(error).splitlines()[0]}); the one before it is taken")
            continue
        return path
    return None


def step_of(path: Path) -> int:
    """Optimiser steps that a checkpoint's run has done. Raises what torch raises where it is damaged."""
    if path.is_dir():
        if not (path / DEEPSPEED_LAST).is_file():
            raise FileNotFoundError(f"{path / DEEPSPEED_LAST} is missing")
        return int(re.sub(r"\D", "", path.stem))
    return torch.load(path, map_location="meta", weights_only=True, mmap=True)["global_step"]


def num_ranks_of(path: Path) -> int | None:
    """Processes of the run that wrote a checkpoint; None where an older version did, which does not say."""
    if path.is_dir():
        # each process writes its part of the optimiser
        return len(list(path.glob("*/*_optim_states.pt"))) or None
    return torch.load(path, map_location="meta", weights_only=True, mmap=True).get(NUM_RANKS)


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
