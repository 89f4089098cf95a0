"""Adaptive decoding as its sources do it: a whole generation for the confidence, then another with scaled logits.

The second prefill computes the last prompt row again, explicitly, with the image logits multiplied; greedy, one
prompt at a time, with a cache.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from lookright.backbones.base import CACHE, Backbone
from lookright.packing.question import DecoderInput

NAME = "two_generations"
_factors: list[Tensor] = []


def scaling_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """SDPA, but for the last row of a prompt's pass while factors are set."""
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if _factors and query.shape[2] == key.shape[2]:
        repeats = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(repeats, 1) for part in (key, value))
        logits = query[:, :, -1:] @ keys.transpose(2, 3) * kwargs["scaling"] * _factors[-1]
        output = torch.cat([output[:, :-1], (logits.softmax(-1) @ values).transpose(1, 2)], dim=1)
    return output, None


def use_two_generations(backbone: Backbone, model: nn.Module) -> None:
    """Put the attention above into a model's decoder."""
    AttentionInterface.register(NAME, scaling_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    backbone.language_model(model).set_attn_implementation(NAME)


@torch.no_grad()
def answer_twice(
    backbone: Backbone, model: nn.Module, item: DecoderInput, num_tokens: int, threshold: float, low: float, high: float
) -> list[int]:
    """Token ids of the second generation, up to and with the end token."""
    _, confidence = _generate(backbone, model, item, num_tokens)
    image = torch.zeros(len(item.prompt.input_ids))
    for start, stop in item.prompt.image_spans:
        image[start:stop] = 1.0
    _factors.append(1.0 + ((low if confidence < threshold else high) - 1.0) * image)
    try:
        return _generate(backbone, model, item, num_tokens)[0]
    finally:
        _factors.pop()


def _generate(backbone: Backbone, model: nn.Module, item: DecoderInput, num_tokens: int) -> tuple[list[int], float]:
    """Greedy ids, and the largest probability of the first."""
    ids = item.prompt.input_ids[None]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for start, stop in item.prompt.image_spans:
        mask[0, start:stop] = True
    embeds = backbone.merge_images(model, ids, mask, backbone.encode_images(model, item.pixels))
    cache = DynamicCache(config=model.config.get_text_config())
    extra = backbone.decoder_kwargs(mask)
    answer: list[int] = []
    confidence = 0.0
    while len(answer) < num_tokens and (not answer or answer[-1] not in backbone.end_token_ids):
        output = backbone.language_model(model)(inputs_embeds=embeds, use_cache=True, **{CACHE: cache}, **extra)
        logits = model.get_output_embeddings()(output.last_hidden_state[0, -1])
        if not answer:
            confidence = float(logits.softmax(-1).max())
        answer.append(int(logits.argmax()))
        embeds, extra = model.get_input_embeddings()(torch.tensor([[answer[-1]]])), {}
    return answer, confidence
