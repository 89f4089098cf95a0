"""The one attention function, registered with transformers' attention interface.

A call without anything special is transformers' own SDPA, so stock forward passes, caches and `generate`
behave as they always do. A forward pass that carries `packed=PackedCall(...)` computes a packed row.
Inside `scaled_image_attention(...)` the last prompt row weighs image tokens differently.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from lookright.attention.packed import PackedCall, packed_attention
from lookright.attention.scaling import active_scaling

ATTENTION_NAME = "lookright"


def lookright_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: PackedCall | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query float[B, H, L, D] -> (float[B, L, H, D], None).

    Raises ValueError for attention dropout in a packed row, which no supported decoder has.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed is not None:
        if dropout:
            raise ValueError(
                f"attention dropout {dropout} is not supported in a packed row; set attention_dropout to 0"
            )
        return packed_attention(query, key, value, scale, module.layer_idx, packed), None
    image_scaling = active_scaling()
    if image_scaling is not None and image_scaling.applies(query.shape[2], key.shape[2]):
        return image_scaling.attend(query, key, value, attention_mask, scale, module.layer_idx), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs)


def use_lookright_attention(decoder: PreTrainedModel) -> None:
    """Make a decoder stack call `lookright_attention`; raises ValueError where it takes no custom attention."""
    AttentionInterface.register(ATTENTION_NAME, lookright_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)
    decoder.set_attn_implementation(ATTENTION_NAME)
