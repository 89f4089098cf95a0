"""Adapters added to a layer's output by the product that makes them, in place.

PEFT computes `W x + B A x * scale` as a product, a scaling and a sum; each reads and writes values as large as the
layer's output, forward and backward. Under autocast it also widens the input to the adapter's type first, only for
the product to narrow it again. The numbers are the same but for rounding, which is once instead of three times.
"""

import types
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


def fuse_adapters(policy: nn.Module) -> int:
    """Let every plain LoRA layer of PEFT's add in one product; returns how many.

    Layers of another kind (4 bits, embeddings) stay as PEFT made them. Names, types and saved files do not change.
    """
    layers = [module for module in policy.modules() if type(module) is LoraLinear]
    for layer in layers:
        layer.forward = types.MethodType(_fused_forward, layer)
    return len(layers)


def _fused_forward(self: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """float[..., in] -> float[..., out]; PEFT's own way for all but one plain adapter that is switched on."""
    name = _plain_adapter(self)
    if name is None or "adapter_names" in kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    output = self.base_layer(x, *args, **kwargs)
    down, up = self.lora_A[name], self.lora_B[name].weight
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(down.weight.dtype)
    low = down(self.lora_dropout[name](x))
    if low.dtype != output.dtype or output.dim() != 3:
        return (output + low @ up.T * self.scaling[name]).to(output.dtype)
    # not by way of a view of two dimensions: its gradient would be copied once more
    return output.baddbmm_(low, up.T.to(low.dtype).expand(len(low), -1, -1), alpha=self.scaling[name])


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
