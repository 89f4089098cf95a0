"""What steps the weights: an optimiser over groups of parameters, and the share of its rate at each step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lookright.errors import ConfigError, ParameterError


class Schedule(ABC):
    """Learning rate over a run: a climb, then `shape`. `warmup` is the share of steps that climb.

    A schedule of one's own is a subclass with `shape`. Raises ParameterError for another share.
    """

    def __init__(self, warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise ParameterError("warmup", f"={warmup}; a share of the steps in [0, 1)")
        self.warmup = warmup

    @abstractmethod
    def shape(self, progress: float) -> float:
        """Share of the peak after the climb; `progress` is 0 at the first such step and 1 after the last."""

    def factor(self, step: int, num_steps: int) -> float:
        """Learning rate at `step` (0-based) of `num_steps` as a share of its peak."""
        num_warmup = math.ceil(self.warmup * num_steps)
        if step < num_warmup:
            return (step + 1) / num_warmup
        return self.shape(min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup)))


class Linear(Schedule):
    """Down to 0 in even steps."""

    def shape(self, progress: float) -> float:
        """1 - p."""
        return 1.0 - progress


class Cosine(Schedule):
    """Down to 0 along half a cosine (SGDR without restarts, arXiv 1608.03983)."""

    def shape(self, progress: float) -> float:
        """(1 + cos(pi p)) / 2."""
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class Constant(Schedule):
    """At the peak."""

    def shape(self, progress: float) -> float:
        """1, wherever the run is."""
        del progress
        return 1.0


@dataclass(slots=True, frozen=True, kw_only=True)
class Optimization:
    """What the groups `optimizer` and `schedule` name.

    `optimizer` takes groups of parameters and holds its own arguments, `lr` among them, as a partial of an optimiser's
    class does. `schedule` is a `Schedule`, or takes the optimiser and gives one of torch's schedulers, which then steps
    once an optimiser step. `projector_lr` where the projector trains, None for `lr`.
    """

    optimizer: Callable[..., Optimizer]
    schedule: Schedule | Callable[[Optimizer], LRScheduler]
    projector_lr: float | None = None

    def build(self, model: nn.Module, projector_prefix: str, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimiser and per-step schedule over the parameters of the bare `model` that train."""
        groups: dict[float | None, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self._rate(name.startswith(projector_prefix)), []).append(parameter)
        return self._built(groups, num_steps)

    def check(self) -> None:
        """Build both around a parameter of no use. Raises ConfigError for what they refuse."""
        for key, rate in (("optimizer.lr", self._rate(False)), ("projector_lr", self._rate(True))):
            number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if rate is not None and not (number and rate > 0):
                raise ConfigError(f"{key}={rate!r}; set a number above 0")
        try:
            self._built({self._rate(False): [nn.Parameter(torch.zeros(1))]}, 10)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer, schedule: {error}") from error

    def _rate(self, projector: bool) -> float | None:
        """The peak of a group; None where the optimiser was given none and has its own."""
        given = getattr(self.optimizer, "keywords", {}).get("lr")
        return self.projector_lr if projector and self.projector_lr is not None else given

    def _built(self, groups: dict[float | None, list[nn.Parameter]], num_steps: int) -> tuple[Optimizer, LRScheduler]:
        optimizer = self.optimizer(
            [
                {"params": parameters} if rate is None else {"params": parameters, "lr": rate}
                for rate, parameters in groups.items()
            ]
        )
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizer._target_ gives a {type(optimizer).__name__}; name a torch.optim.Optimizer")
        schedule = self.schedule
        if isinstance(schedule, Schedule):
            return optimizer, LambdaLR(optimizer, lambda step: schedule.factor(step, num_steps))
        scheduler = schedule(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
            raise ConfigError(
                f"schedule._target_ gives a {type(scheduler).__name__}; name a subclass of "
                "lookright.training.optimization.Schedule, or one of torch.optim.lr_scheduler that needs no metric"
            )
        return optimizer, scheduler


def count_steps(num_batches: int, accumulate: int, max_epochs: int | None, max_steps: int) -> int:
    """Optimiser steps of a run: the last, partial accumulation of an epoch steps too; `max_steps` -1 is no bound."""
    if not max_epochs or max_epochs < 0:
        return max_steps
    steps = max_epochs * math.ceil(num_batches / accumulate)
    return steps if max_steps < 0 else min(steps, max_steps)


def limited(num_batches: int, limit: int | float) -> int:
    """Batches of an epoch under a limit of Lightning's `Trainer`: a number of them, or a share."""
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
