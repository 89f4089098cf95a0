"""Adaptive attention scaling (AdaptVis, arXiv 2503.01773, section 4), extended to several images.

The first token's confidence, which the prefill gives anyway, decides: unsure answers smooth the attention
over image tokens, sure ones sharpen it. Only the last prompt row changes, so every earlier key and value
stays valid: that one token runs again on the kept cache, and no second generation is needed.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from lookright.attention import SOURCES, TARGET, ImageScaling, scaled_image_attention
from lookright.backbones.base import Backbone
from lookright.decoding.decoder import Decoder, Sampling
from lookright.decoding.prefill import Prefill
from lookright.errors import ConfigError
from lookright.losses.band import half_depth, layer_band


class AdaptiveDecoder(Decoder):
    """Scales the image logits of the last prompt row by `alpha_low` below `threshold`, else by `alpha_high`.

    `scope`: `all` image tokens (the sources), or only those of the `target` that the prompt names, in
    proportion to how much of a token it covers. `layers`: decoder layers (0-based) or shares of the depth
    that are scaled, None for all. `steps`: the `first` answer token's row, or the row of `every` token.
    """

    def __init__(
        self,
        max_new_tokens: int = 512,
        num_beams: int = 1,
        sampling: Sampling | None = None,
        threshold: float = 0.5,
        alpha_low: float = 0.7,
        alpha_high: float = 2.0,
        scope: str = "all",
        layers: Sequence[int] | Sequence[float] | None = None,
        steps: str = "first",
    ) -> None:
        super().__init__(max_new_tokens, num_beams, sampling)
        if scope not in ("all", "target") or steps not in ("first", "every"):
            raise ConfigError(f"decode.scope={scope!r}, decode.steps={steps!r}; valid: all or target, first or every")
        if not 0 <= threshold <= 1 or min(alpha_low, alpha_high) < 0:
            raise ConfigError(
                f"decode.threshold={threshold} must lie in [0, 1]; decode.alpha_low={alpha_low} and "
                f"decode.alpha_high={alpha_high} must be 0 or more"
            )
        self.threshold, self.alpha_low, self.alpha_high = threshold, alpha_low, alpha_high
        self.scope, self.layers, self.steps = scope, layers, steps

    def factors(self, state: Prefill) -> torch.Tensor:
        """The factor of each prompt, by its confidence: float32[B]."""
        low, high = (state.confidence.new_tensor(value) for value in (self.alpha_low, self.alpha_high))
        return torch.where(state.confidence < self.threshold, low, high)

    def looking(self, backbone: Backbone, state: Prefill) -> AbstractContextManager[ImageScaling]:
        """Scale inside generation; beams share their prompt's factors."""
        image = state.image_mask.float()
        if self.scope == "target" and not _known(state).all():
            raise ConfigError("decode.scope=target needs a record with target and regions; set decode.scope=all")
        scope = image if self.scope == "all" else state.coverage[..., TARGET]
        factors = 1.0 + (self.factors(state)[:, None] - 1.0) * scope
        layers = None if self.layers is None else layer_band(backbone.num_layers, self.layers, key="decode.layers")
        scaling = ImageScaling(
            factors=factors.repeat_interleave(self.num_beams, 0),
            watch=state.coverage.repeat_interleave(self.num_beams, 0),
            layers=None if layers is None else frozenset(layers),
            every_step=self.steps == "every",
        )
        return scaled_image_attention(scaling)

    def details(self, state: Prefill, scaling: ImageScaling) -> list[dict[str, Any]]:
        """Factor and attention ratio, the latter at half depth as for selection."""
        masses = scaling.masses[half_depth(len(scaling.masses))][:: self.num_beams]
        ratios = (masses[:, TARGET] / masses[:, SOURCES]).tolist()
        return [
            {"factor": factor, "attention_ratio": ratio if has_target else None}
            for factor, ratio, has_target in zip(
                self.factors(state).tolist(), ratios, _known(state).tolist(), strict=True
            )
        ]


def _known(state: Prefill) -> torch.Tensor:
    """Prompts whose target is known: bool[B]."""
    return state.coverage[..., TARGET].sum(1) > 0
