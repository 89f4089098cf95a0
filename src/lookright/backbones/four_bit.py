"""A decoder's linear layers turned into 4 bits while its checkpoint is read. Needs bitsandbytes."""

from collections.abc import Callable

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.backbones.quantization import QUANT_TYPE
from lookright.backbones.shards import assign


def put_in_4_bits(
    model: PreTrainedModel, decoder: nn.Module, dtype: torch.dtype, device: torch.device
) -> Callable[[str, Tensor], None]:
    """Make every linear layer of `decoder` one of 4 bits, and return what puts a tensor in its place.

    `model` lies on the meta device and contains `decoder`. Each weight goes to `device` by itself, so that no
    more than one is ever held in full; all other parameters get `dtype`.
    """
    for part in list(decoder.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Linear):
                sizes = (child.in_features, child.out_features, child.bias is not None)
                setattr(part, name, Linear4bit(*sizes, compute_dtype=dtype, quant_type=QUANT_TYPE, device="meta"))
    model.is_loaded_in_4bit = True  # by this PEFT chooses its layers

    def put(name: str, tensor: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        layer = model.get_submodule(owner)
        value = tensor.to(dtype)
        if isinstance(layer, Linear4bit) and leaf == "weight":
            value = Params4bit(
                value, requires_grad=False, compress_statistics=True, quant_type=QUANT_TYPE, module=layer
            )
            assign(model, name, value.to(device))
        else:
            assign(model, name, tensor.to(device, dtype, copy=True))

    return put
