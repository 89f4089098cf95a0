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
from lookright.errors import BackboneError

ATTENTION_NAME = "lookright"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""What some decoders hand to attention and packed or scaled rows leave out: capped logits, sinks, biases."""


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

    Raises BackboneError where a packed or scaled row would not be what the decoder asks for: dropout, a sliding
    window shorter than the row, what `UNSUPPORTED` lists, a module that does not tell its `layer_idx`.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed is not None:
        _check_window(module, kwargs.get("sliding_window"), packed)
        layer = _layer_number(module, dropout, kwargs)
        return packed_attention(query, key, value, scale, layer, packed), None
    image_scaling = active_scaling()
    if image_scaling is not None and image_scaling.applies(query.shape[2], key.shape[2]):
        layer = _layer_number(module, 0.0, kwargs)
        return image_scaling.attend(query, key, value, attention_mask, scale, layer), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs)


def _layer_number(module: nn.Module, dropout: float, kwargs: dict[str, Any]) -> int:
    """The decoder layer of an attention module, 0-based. Raises BackboneError for what is not computed here."""
    kind = type(module).__name__
    if dropout:
        raise BackboneError(f"attention dropout {dropout} is not supported in a packed row; set attention_dropout to 0")
    asked = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if asked:
        raise BackboneError(f"{kind} attends with {' and '.join(asked)}, which packed and scaled rows do not have")
    if not isinstance(number := getattr(module, "layer_idx", None), int):
        raise BackboneError(f"{kind} has layer_idx={number!r}; an attention module tells the number of its layer there")
    return number


def _check_window(module: nn.Module, window: int | None, packed: PackedCall) -> None:
    """A decoder that sees the last `window` tokens alone is exact as long as no conversation is longer."""
    layout = packed.layout
    if window is None or max(group.num_tokens for group in layout.groups) <= window:
        return
    seen = [int(visible.sum(1).max()) for visible in layout.visible]
    longest = max(group.num_prefix + count for group, count in zip(layout.groups, seen, strict=True))
    if longest > window:
        raise BackboneError(
            f"{type(module).__name__} has a sliding window of {window} tokens and a conversation of {longest}, which a "
            f"packed row would see whole; set backbone.max_length to {window}"
        )


def use_lookright_attention(decoder: PreTrainedModel) -> None:
    """Make a decoder stack call `lookright_attention`; raises ValueError where it takes no custom attention."""
    AttentionInterface.register(ATTENTION_NAME, lookright_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)
    decoder.set_attn_implementation(ATTENTION_NAME)
