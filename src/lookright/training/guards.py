"""What ends a run early, in order: a signal, a loss that is no number, memory that does not suffice."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.optim import Optimizer

from lookright.common.stopping import ASKED_TO_STOP
from lookright.errors import LookRightError, Stopped, WorkerLost
from lookright.packing.batch import PackedBatch
from lookright.training.checkpoints import RunCheckpoints

SIGNALS = (*ASKED_TO_STOP, signal.SIGINT)
SHOWN_IDS = 8
LOST_READER = "DataLoader worker"
"""How torch begins what it says of a process that ended."""


class StopOnSignal(Callback):
    """A signal ends the run at the next optimiser step's end, with a checkpoint there; a second Ctrl-C
    ends it at once.

    One rank's signal stops all ranks at the same step. `command` is what goes on with the run.
    """

    def __init__(self, checkpoints: RunCheckpoints, command: str) -> None:
        self.checkpoints, self.command = checkpoints, command
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Here, since Lightning has set its own handlers by now; it puts back what it found when the run ends."""
        del trainer, pl_module
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save and stop. Raises Stopped."""
        del pl_module, batch
        if batch_idx % trainer.accumulate_grad_batches:
            return
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not stop:
            return
        path = self.checkpoints.save(trainer)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        raise Stopped(
            # another rank's: they are sent to all, as a rule
            self.received or signal.SIGTERM,
            f"stopped before the first step; start it again: {self.command}"
            if path is None
            else f"stopped after step {trainer.global_step}, which {path} holds; go on with: {self.command}",
            started_by_run=isinstance(environment, LightningEnvironment) and trainer.local_rank > 0,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left to save."""
        del trainer, pl_module
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Whatever else ends the run."""
        del trainer, pl_module, exception
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        # schedulers send theirs several times over; who is in a hurry kills
        if number == self.received == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@dataclass(slots=True, frozen=True, kw_only=True)
class TakenBatch:
    """What an error tells of a batch: record ids and tokens of its row, none where it is no packed one."""

    ids: tuple[str, ...]
    num_tokens: int


class RefuseNonFinite(Callback):
    """The first loss or gradient that is NaN or infinite ends the run, before it reaches the weights."""

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self.checkpoints = checkpoints
        self.batches: list[TakenBatch] = []
        """Those of the optimiser step that is being taken, on this rank."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember whose loss comes next."""
        del pl_module
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.batches = []
        # a batch of another kind may hold a packed one
        row = batch if isinstance(batch, PackedBatch) else getattr(batch, "packed", None)
        if row is not None:
            self.batches.append(TakenBatch(ids=tuple(row.ids), num_tokens=row.input_ids.numel()))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Raises LookRightError with the step and the records of the batch; a checkpoint holds what was good."""
        del pl_module
        value = loss.detach().item()
        self._check(trainer, "loss", value, self.batches[-1:])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raises LookRightError as for a loss; a loss scaler (float16) leaves such a step out by itself."""
        del pl_module
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._check(trainer, "gradient", float(torch.nn.utils.get_total_norm(gradients)), self.batches)

    def _check(self, trainer: Trainer, what: str, value: float, batches: list[TakenBatch]) -> None:
        bad = not math.isfinite(value)
        if not (trainer.strategy.reduce_boolean_decision(bad, all=False) if trainer.world_size > 1 else bad):
            return
        path, step = self.checkpoints.save(trainer), trainer.global_step + 1
        where = f"is {value} in step {step}{on_records(batches)}" if bad else f"of another rank broke in step {step}"
        saved = "no step was taken before it" if path is None else f"{path} holds the weights before it"
        raise LookRightError(
            f"{what} {where}; {saved}. Set a lower optimizer.lr, trainer.gradient_clip_val or "
            "trainer.precision=32-true, or look at these records; debug=anomaly names the operation"
        )


def on_records(batches: list[TakenBatch]) -> str:
    """The first ids of some batches, and how many more there are; nothing where none is known."""
    ids = [name for batch in batches for name in batch.ids]
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f", on the records {', '.join(ids[:SHOWN_IDS])}{more}" if ids else ""


@contextmanager
def memory_told(trainer: Trainer) -> Iterator[None]:
    """Turn an allocation that fails into an error that names the batch and what to lower. Raises LookRightError.

    A process of the loader that was killed is told, too: as a rule it was for memory. Raises WorkerLost.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith(LOST_READER):
            raise WorkerLost(
                f"a process that reads pictures was killed, as the system does where memory runs out ({error}): set a "
                "lower data.num_workers"
            ) from error
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        guard = next((one for one in trainer.callbacks if isinstance(one, RefuseNonFinite)), None)
        batches = [] if guard is None else guard.batches[-1:]
        row = f" of {batches[0].num_tokens} tokens" if batches else ""
        raise LookRightError(
            f"out of memory in step {trainer.global_step + 1}{on_records(batches)}, a row{row}: "
            f"{str(error).splitlines()[0]}\nSet a lower data.batch_size (trainer.accumulate_grad_batches keeps the "
            "pairs of a step) or data.max_tokens, trainer.gradient_checkpointing=true, or "
            "trainer.model_dtype=bfloat16; trainer.plan=true tells what a run takes"
        ) from error
