"""The decoder's linear layers in 4 bits (QLoRA); their partial LoRA keeps its type. Needs bitsandbytes."""

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor

from lookright.backbones.ixc25.modeling import Ixc25ForCausalLM
from lookright.backbones.ixc25.plora import PartialLoraLinear, add_on_image_rows
from lookright.backbones.quantization import QUANT_TYPE, keep_trainable, loading_device


class PartialLoraLinear4bit(Linear4bit):
    """A `PartialLoraLinear` whose own weight is held in 4 bits and multiplied in `dtype`.

    The weight is quantised when the layer is moved to a device.
    """

    def __init__(self, source: PartialLoraLinear, dtype: torch.dtype) -> None:
        super().__init__(source.in_features, source.out_features, bias=False, compute_dtype=dtype, device="meta")
        self.weight = Params4bit(
            source.weight.data, requires_grad=False, compress_statistics=True, quant_type=QUANT_TYPE, module=self
        )
        self.Plora_A, self.Plora_B = source.Plora_A, source.Plora_B
        self.plora_dropout, self.plora_scale = source.plora_dropout, source.plora_scale

    def forward(self, x: Tensor, image_rows: Tensor | None = None) -> Tensor:
        """float[..., in] -> float[..., out]; `image_rows` int64[K] indexes the rows of x flattened."""
        return add_on_image_rows(self, super().forward(x), x, image_rows)


def quantise(model: Ixc25ForCausalLM, dtype: torch.dtype) -> None:
    """Hold every linear layer of the decoder in 4 bits; head, embeddings, ViT and projector stay in `dtype`."""
    device = loading_device()
    for part in list(model.model.layers.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, PartialLoraLinear):
                setattr(part, name, PartialLoraLinear4bit(child, dtype).to(device))
    model.to(device)
    keep_trainable(model)
    model.is_loaded_in_4bit = True  # by this PEFT chooses its layers
