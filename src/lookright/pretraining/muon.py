"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, for the matrices between embeddings and head.

torch.optim.Muon computes in bfloat16, which a CPU without such units does a hundred times slower than float32.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, from the reference implementation."""
NUM_ITERATIONS = 5
MATCH_ADAM = 0.2
"""Scale that gives an update the size of Adam's (Liu et al., arXiv 2502.16982, section 2.2)."""


class Muon(Optimizer):
    """Steps each parameter, seen as a matrix, by its orthogonalised Nesterov momentum; `weight_decay` is decoupled."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | None] | None = None) -> Tensor | None:
        """One step; `closure` is called once before it, as torch's optimisers do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(average, group["momentum"]).flatten(1))
                scale = group["lr"] * MATCH_ADAM * max(update.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-scale)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T of float[n, m], by Newton-Schulz iteration."""
    first, second, third = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    current = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = current @ current.T
        current = first * current + (second * gram + third * gram @ gram) @ current
    return current.T if tall else current
