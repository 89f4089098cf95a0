"""AdamW with linear warm-up and linear decay, and the count of steps that the schedule needs."""

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lookright.errors import ConfigError


@dataclass(slots=True, kw_only=True)
class Optimization:
    """Settings of the optimiser.

    `learning_rate` of adapters or decoder, `projector_learning_rate` where the projector trains;
    `warmup` is the share of steps that climb; `schedule` is linear, cosine or constant after them.
    """

    learning_rate: float = 5e-5
    projector_learning_rate: float = 2e-5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "cosine", "constant"):
            raise ConfigError(f"optimization.schedule={self.schedule!r}; valid: linear, cosine, constant")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"optimization.warmup={self.warmup}; a share of the steps in [0, 1)")
        if self.learning_rate <= 0 or self.projector_learning_rate <= 0:
            raise ConfigError("optimization.learning_rate and projector_learning_rate must be above 0")
        self.betas = tuple(self.betas)

    def build(self, model: nn.Module, projector_prefix: str, num_steps: int) -> tuple[Optimizer, LambdaLR]:
        """Optimiser and per-step schedule over the parameters of the bare `model` that train."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self.projector_learning_rate if name.startswith(projector_prefix) else self.learning_rate
                groups.setdefault(rate, []).append(parameter)
        optimizer = AdamW(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            betas=self.betas,
            weight_decay=self.weight_decay,
        )
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, num_steps))

    def factor(self, step: int, num_steps: int) -> float:
        """Learning rate at `step` (0-based) of `num_steps` as a share of its peak."""
        num_warmup = math.ceil(self.warmup * num_steps)
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
        if self.schedule == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0


def count_steps(num_batches: int, accumulate: int, max_epochs: int | None, max_steps: int) -> int:
    """Optimiser steps of a run: the last, partial accumulation of an epoch steps too; `max_steps` -1 is no bound."""
    if not max_epochs or max_epochs < 0:
        return max_steps
    steps = max_epochs * math.ceil(num_batches / accumulate)
    return steps if max_steps < 0 else min(steps, max_steps)
