"""Adaptive decoding the slow way: every token by a whole pass without cache, on a stock model with eager attention.

Its attention function is written here from the definition: causal softmax, the logits of chosen rows on prompt
tokens multiplied by factors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.question import DecoderInput
from tests.plain import stock_model

NAME = "slow_scaled"


@dataclass
class Scaled:
    """`factors` float[L] for the keys of the prompt; rows from the last prompt row on are scaled, or that alone."""

    factors: Tensor
    layers: set[int] | None = None
    every: bool = False
    maps: dict[int, Tensor] = field(default_factory=dict)


_NOW: list[Scaled] = []


def slow_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Rows of one unpadded prompt, with beams as a batch."""
    repeats = query.shape[1] // key.shape[1]
    logits = query @ key.repeat_interleave(repeats, 1).transpose(2, 3) * scaling
    num_rows = logits.shape[2]
    assert logits.shape[3] == num_rows, "the slow way has no cache"
    now = _NOW[-1] if _NOW else None
    last = len(now.factors) - 1 if now else 0
    if now and (now.layers is None or module.layer_idx in now.layers):
        logits = logits.clone()
        for row in range(last, num_rows) if now.every else [last]:
            logits[:, :, row, : last + 1] *= now.factors
    future = torch.ones(num_rows, num_rows, dtype=torch.bool).triu(1)
    probabilities = logits.masked_fill(future, float("-inf")).softmax(-1)
    if now:
        now.maps.setdefault(module.layer_idx, probabilities[0, :, last].mean(0))
    return (probabilities @ value.repeat_interleave(repeats, 1)).transpose(1, 2), None


@contextmanager
def scaled(state: Scaled) -> Iterator[Scaled]:
    _NOW.append(state)
    try:
        yield state
    finally:
        _NOW.pop()


def slow_model(backbone: LlavaBackbone, model: PreTrainedModel) -> PreTrainedModel:
    """A stock model with these weights and the attention above in its decoder."""
    AttentionInterface.register(NAME, slow_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    stock = stock_model(backbone, model)
    stock.model.language_model.set_attn_implementation(NAME)
    return stock


@torch.no_grad()
def confidence(stock: PreTrainedModel, item: DecoderInput) -> float:
    """Largest probability of the first token of a plain pass: the first of the two generations."""
    logits = stock(input_ids=item.prompt.input_ids[None], pixel_values=stacked(stock, item)).logits[0, -1]
    return float(logits.softmax(-1).max())


@torch.no_grad()
def slow_generate(stock: PreTrainedModel, item: DecoderInput, backbone: LlavaBackbone, **options: Any) -> list[int]:
    """Transformers' own generation without any cache, end token kept and padding cut."""
    row = stock.generate(
        input_ids=item.prompt.input_ids[None],
        pixel_values=stacked(stock, item),
        use_cache=False,
        pad_token_id=backbone.pad_token_id,
        eos_token_id=backbone.end_token_ids,
        **{"do_sample": False, **options},
    )[0, len(item.prompt.input_ids) :].tolist()
    stops = [place + 1 for place, token in enumerate(row) if token in backbone.end_token_ids]
    return row[: stops[0]] if stops else row


def stacked(stock: PreTrainedModel, item: DecoderInput) -> Tensor:
    """Pixels as the model takes them; every pass of a generation needs them, as nothing is cached."""
    return torch.stack(item.pixels).to(stock.dtype)
