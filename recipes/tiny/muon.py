"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, for the matrices between embeddings and head.

torch.optim.Muon computes in bfloat16, which a CPU without such units does a hundred times slower than float32.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration, from the reference implementation."""
NUM_ITERATIONS = 5
MATCH_ADAM = 0.2
"""Scale that gives an update the size of Adam's (Liu et al., arXiv 2502.16982, section 2.2)."""
MUON_SHARE = 3.0
"""Muon's learning rate as a multiple of AdamW's."""


class MuonAdamW(AdamW):
    """One optimiser over two kinds of parameters: AdamW's, and `matrices` that Muon steps at `MUON_SHARE` times `lr`.

    A matrix moves by its orthogonalised Nesterov momentum, seen with its first dimension against all others; weight
    decay is decoupled for both kinds.
    """

    def __init__(
        self,
        others: Iterable[nn.Parameter],
        matrices: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups = [
            {"params": list(others), "lr": lr, "orthogonal": False},
            {"params": list(matrices), "lr": MUON_SHARE * lr, "orthogonal": True},
        ]
        super().__init__([group for group in groups if group["params"]], betas=betas, weight_decay=weight_decay)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of every parameter that has a gradient; `closure` is called once before it."""
        loss = None
        if closure is not None:
            # with all groups in place: a closure may clear and clip gradients through them
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            # AdamW's own step goes over all groups that it finds
            self.param_groups = [group for group in groups if not group["orthogonal"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # AdamW looks for a step count in every state that it loads
                state |= {"average": torch.zeros_like(parameter), "step": torch.zeros(())}
            average = state["average"]
            average.lerp_(parameter.grad, 1 - self.momentum)
            update = orthogonalised(parameter.grad.lerp(average, self.momentum).flatten(1))
            scale = group["lr"] * MATCH_ADAM * max(update.shape) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T of float[n, m], by Newton-Schulz iteration."""
    first, second, third = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    current = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = current @ current.T
        current = first * current + (second * gram + third * gram @ gram) @ current
    return current.T if tall else current
