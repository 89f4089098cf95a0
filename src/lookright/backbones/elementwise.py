"""Steps of a decoder that treat every number by itself, each as one step of the backward pass.

Written as single operations, each of them keeps or makes values as wide as the layer. Here only what cannot be made
again is kept, and what was just made is written over. Neither is differentiable twice.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SILU = ("silu", "swish")
"""What configurations call the activation; transformers' module for it is no `nn.SiLU`."""


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, float[..., F]; the gate's activation is made anew for the backward pass, not kept."""
    return _GatedSilu.apply(gate, up)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: the pairs (i, i + D/2) of float[..., D] turn by their position's angles.

    `cos`, `sin`: float[..., D] that broadcast, their halves equal. The result has the wider type of the two, and the
    memory layout of `states`. Source: RoFormer, arXiv 2104.09864, Eq. 34, with the pairs half a head apart.
    """
    return _Rotation.apply(states.to(torch.promote_types(states.dtype, cos.dtype)), cos, sin)


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return of_gate, F.silu(gate).mul_(gradient)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(states, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # a rotation's gradient is turned back
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1), None, None


def _turned(states: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = states.shape[-1] // 2
    first, second = states[..., :half], states[..., half:]
    turned = states * cos
    turned[..., :half].addcmul_(second, sin[..., :half], value=-direction)
    turned[..., half:].addcmul_(first, sin[..., half:], value=direction)
    return turned
