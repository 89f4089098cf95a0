"""A frozen linear layer and its adapter as one step of the backward pass.

PEFT computes `W x + B A x * scale` as a product, a scaling and a sum; each reads and writes values as large as the
layer's output. In the backward pass the gradient of `x` is made twice, by the layer and by the adapter, in layouts that
do not agree, and then added. Here the adapter adds into what the layer's product wrote, forward and backward, so that
nothing as large as an input or an output is touched twice. The numbers are the same but for rounding, which is once
instead of three times.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lookright.backbones.adapters import LoraLinear


def fuse_adapters(policy: nn.Module) -> int:
    """Let every plain LoRA layer of PEFT's add in one product; returns how many.

    Layers of another kind (4 bits, embeddings) stay as PEFT made them. Names, types and saved files do not change.
    """
    layers = [module for module in policy.modules() if type(module) is LoraLinear]
    for layer in layers:
        layer.forward = types.MethodType(_fused_forward, layer)
    return len(layers)


class AdaptedLinear(torch.autograd.Function):
    """`x W^T + bias + scale (dropped A^T) B^T` around a frozen layer W.

    x: float[N, in]; dropped: float[N, in], None where nothing was; W: float[out, in]; A: float[r, in];
    B: float[out, r]; all of one type. It is not differentiable twice. Source: LoRA, arXiv 2106.09685, Eq. 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """float[N, out]."""
        rows = x if dropped is None else dropped
        low = rows @ down.T
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.drops, ctx.scale = dropped is not None, scale
        return F.linear(x, weight, bias).addmm_(low, up.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, dropped, A and B."""
        rows, weight, down, up, low = ctx.saved_tensors
        of_low = (gradient @ up).mul_(ctx.scale)
        of_down = of_low.T @ rows if ctx.needs_input_grad[4] else None
        # the narrow factor comes first: in the other order the product takes twice as long
        of_up = (low.T @ gradient).mul_(ctx.scale).T if ctx.needs_input_grad[5] else None
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        of_dropped = of_low @ down if ctx.drops and ctx.needs_input_grad[1] else None
        if of_x is not None and not ctx.drops:
            of_x.addmm_(of_low, down)
        return of_x, of_dropped, None, None, of_down, of_up, None


def _fused_forward(self: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """float[..., in] -> float[..., out]; PEFT's own way for all but one plain adapter that is switched on."""
    name = _plain_adapter(self)
    if name is None or "adapter_names" in kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    # not get_base_layer(), which would pass over a tuner's layer inside this one
    base, down, up = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
    if _is_product(base) and not args and not kwargs:
        factors = _in_one_type(x.device.type, x, base.weight, base.bias, down, up)
        if factors is not None:
            wide, weight, bias, down, up = factors
            # views are taken outside the step: one made inside could not be written into
            rows = wide.reshape(-1, wide.shape[-1])
            dropped = self.lora_dropout[name](rows)
            # one tensor given twice would keep torch.compile from taking this into its graph
            dropped = None if dropped is rows else dropped
            output = AdaptedLinear.apply(rows, dropped, weight, bias, down, up, self.scaling[name])
            return output.view(*x.shape[:-1], len(weight))
    output = base(x, *args, **kwargs)
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(down.dtype)
    low = F.linear(self.lora_dropout[name](x), down)
    if low.dtype != output.dtype or output.dim() != 3:
        return (output + low @ up.T * self.scaling[name]).to(output.dtype)
    # not by way of a view of two dimensions: its gradient would be copied once more
    return output.baddbmm_(low, up.T.to(low.dtype).expand(len(low), -1, -1), alpha=self.scaling[name])


def _is_product(base: nn.Module) -> bool:
    """Whether a frozen layer is its weights' product and no more, so that it need not be called to take it."""
    hooks = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
    if type(base) is not nn.Linear or hooks or "forward" in base.__dict__:
        return False
    return not any(parameter.requires_grad for parameter in base.parameters())


def _in_one_type(device: str, *factors: Tensor | None) -> list[Tensor | None] | None:
    """Factors in the type that autocast asks for, or as they are; None where they are not of one type.

    Autocast leaves float64 alone.
    """
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        factors = [part if part is None or part.dtype == torch.float64 else part.to(dtype) for part in factors]
    found = {factor.dtype for factor in factors if factor is not None}
    return list(factors) if len(found) == 1 else None


def _plain_adapter(layer: LoraLinear) -> str | None:
    """The one adapter to add, None where that is not all there is to do.

    ZeRO-3 gathers a parameter when its module is called, and here B's is not: its parameters have a `ds_id`.
    """
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    up = layer.lora_B[active[0]]
    plain = active[0] not in layer.lora_variant and up.bias is None and not hasattr(up.weight, "ds_id")
    return active[0] if plain else None
