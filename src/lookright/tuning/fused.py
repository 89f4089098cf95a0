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
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


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

    x, dropped: float[..., in], the same tensor where nothing was dropped; W: float[out, in]; A: float[r, in];
    B: float[out, r]; all of one type. It is not differentiable twice. Source: LoRA, arXiv 2106.09685, Eq. 3.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        dropped: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """float[..., out]."""
        rows = dropped.reshape(-1, dropped.shape[-1])
        low = rows @ down.T
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.same, ctx.scale = dropped is x, scale
        output = F.linear(x.reshape(-1, x.shape[-1]), weight, bias).addmm_(low, up.T, alpha=scale)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, dropped, A and B."""
        rows, weight, down, up, low = ctx.saved_tensors
        of_output = gradient.reshape(-1, gradient.shape[-1])
        of_low = (of_output @ up).mul_(ctx.scale)
        of_down = of_low.T @ rows if ctx.needs_input_grad[4] else None
        # the narrow factor comes first: in the other order the product takes twice as long
        of_up = (low.T @ of_output).mul_(ctx.scale).T if ctx.needs_input_grad[5] else None
        of_x = of_output @ weight if ctx.needs_input_grad[0] else None
        of_dropped = None
        if ctx.same and of_x is not None:
            of_x.addmm_(of_low, down)
        elif not ctx.same and ctx.needs_input_grad[1]:
            of_dropped = (of_low @ down).view(*gradient.shape[:-1], -1)
        of_x = None if of_x is None else of_x.view(*gradient.shape[:-1], -1)
        return of_x, of_dropped, None, None, of_down, of_up, None


def _fused_forward(self: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """float[..., in] -> float[..., out]; PEFT's own way for all but one plain adapter that is switched on."""
    name = _plain_adapter(self)
    if name is None or "adapter_names" in kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    base, down, up = self.get_base_layer(), self.lora_A[name].weight, self.lora_B[name].weight
    if type(base) is nn.Linear and not any(parameter.requires_grad for parameter in base.parameters()):
        factors = _in_one_type(x.device.type, x, base.weight, base.bias, down, up)
        if factors is not None:
            x, weight, bias, down, up = factors
            return AdaptedLinear.apply(x, self.lora_dropout[name](x), weight, bias, down, up, self.scaling[name])
    output = base(x, *args, **kwargs)
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(down.dtype)
    low = F.linear(self.lora_dropout[name](x), down)
    if low.dtype != output.dtype or output.dim() != 3:
        return (output + low @ up.T * self.scaling[name]).to(output.dtype)
    # not by way of a view of two dimensions: its gradient would be copied once more
    return output.baddbmm_(low, up.T.to(low.dtype).expand(len(low), -1, -1), alpha=self.scaling[name])


def _in_one_type(device: str, *factors: Tensor | None) -> list[Tensor | None] | None:
    """Factors in the type that autocast asks for, or as they are; None where they are not of one type."""
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        factors = [factor if factor is None else factor.to(dtype) for factor in factors]
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
