"""Scaling the attention logits of the last prompt row on image tokens (AdaptVis, arXiv 2503.01773, section 4)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(slots=True, kw_only=True)
class ImageScaling:
    """Multiplies logits by `factors` before the softmax, in passes of one row.

    `factors`: float[B, L], one for every prompt token (1 leaves a token alone); `layers`: those it acts in,
    None for all; `every_step` scales the rows of generated tokens too, not the last prompt row alone.
    `coverage`: float[B, L, C], what each of C regions covers of every prompt token; the head-averaged attention of
    the last prompt row on them, as it was used, is kept in `masses` (layer -> float[B, C]).
    """

    factors: Tensor
    coverage: Tensor
    layers: frozenset[int] | None = None
    every_step: bool = False
    masses: dict[int, Tensor] = field(default_factory=dict)

    def applies(self, num_rows: int, num_keys: int) -> bool:
        """Whether a pass of `num_rows` rows over `num_keys` keys is the one, or one of those, to look at."""
        return num_rows == 1 and (self.every_step or num_keys == self.factors.shape[1])

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, layer: int
    ) -> Tensor:
        """One row a prompt: query float[B, H, 1, D], keys float[B, G, K, D] -> float[B, 1, H, D]."""
        batch, num_heads, _, width = query.shape
        num_key_heads = key.shape[1]
        # the one row of every query head, under the key head that it shares: [B, G, H/G, D] @ [B, G, D, K]
        grouped = query.view(batch, num_key_heads, num_heads // num_key_heads, width)
        logits = (grouped @ key.transpose(2, 3)).float() * scaling
        if self.layers is None or layer in self.layers:
            # keys behind the prompt are generated tokens, which nothing scales: [B, L] -> [B, K]
            factors = F.pad(self.factors, (0, key.shape[2] - self.factors.shape[1]), value=1.0)
            logits = logits * factors[:, None, None, :]
        if mask is not None:
            logits = _masked(logits, mask)
        probabilities = torch.softmax(logits, dim=-1)
        # the first call is the last prompt row's; with `every_step` others follow
        if layer not in self.masses:
            on_prompt = probabilities.mean((1, 2))[:, : self.coverage.shape[1]]
            self.masses[layer] = (on_prompt[:, None] @ self.coverage.to(on_prompt.dtype))[:, 0]
        output = probabilities.to(value.dtype) @ value
        return output.reshape(batch, num_heads, 1, -1).transpose(1, 2)


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Apply transformers' mask, bool (True sees) or additive: [B, 1, 1, K]."""
    row = mask[:, :, -1:, : logits.shape[-1]]
    return logits.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else logits + row.float()


_ACTIVE: ContextVar[ImageScaling | None] = ContextVar("image_scaling", default=None)


def active_scaling() -> ImageScaling | None:
    """The scaling in force, if any."""
    return _ACTIVE.get()


@contextmanager
def scaled_image_attention(scaling: ImageScaling) -> Iterator[ImageScaling]:
    """Scale image attention in every one-row pass inside the block."""
    token = _ACTIVE.set(scaling)
    try:
        yield scaling
    finally:
        _ACTIVE.reset(token)
