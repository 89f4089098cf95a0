"""Adaptive attention scaling (AdaptVis, arXiv 2503.01773, section 4), extended to several images.

The first token's confidence, which the prefill gives anyway, decides: unsure answers smooth the attention
over image tokens, sure ones sharpen it. Only the last prompt row changes, so every earlier key and value
stays valid: that one token runs again on the kept cache, and no second generation is needed.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from lookright.answering.decoder import Decoder, Sampling
from lookright.answering.prefill import Prefill
from lookright.attention import SOURCES, TARGET, ImageScaling, scaled_image_attention
from lookright.attention.band import layer_band
from lookright.backbones.base import Backbone
from lookright.errors import ConfigError
from lookright.types import Prompt

_NO_TARGET = "has no target with regions that are known; set decode.scope=all"


class AdaptiveDecoder(Decoder):
    """Scales the image logits of the last prompt row by `alpha_low` below `threshold`, else by `alpha_high`.

    `scope`: `all` image tokens (the sources), or only those of the `target` that the prompt names, in
    proportion to how much of a token it covers. `layers`: decoder layers (0-based) or shares of the depth
    that are scaled, None for all. `steps`: the `first` answer token's row, or the row of `every` token. `tuned_on`: the
    file that says on which questions these values were chosen; `infer.py` warns where it asks them.
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
        tuned_on: str | None = None,
    ) -> None:
        super().__init__(max_new_tokens, num_beams, sampling)
        if scope not in ("all", "target") or steps not in ("first", "every"):
            raise ConfigError(f"decode.scope={scope!r}, decode.steps={steps!r}; valid: all or target, first or every")
        if not (0 <= threshold <= 1 and 0 <= alpha_low < math.inf and 0 <= alpha_high < math.inf):
            raise ConfigError(
                f"decode.threshold={threshold} must lie in [0, 1]; decode.alpha_low={alpha_low} and "
                f"decode.alpha_high={alpha_high} must be finite and 0 or more"
            )
        self.threshold, self.alpha_low, self.alpha_high = threshold, alpha_low, alpha_high
        self.scope, self.layers, self.steps, self.tuned_on = scope, layers, steps, tuned_on

    def check(self, backbone: Backbone, prompts: Iterable[Prompt] = ()) -> None:
        """See `Decoder.check`: layers that the model lacks, and `scope=target` where a target is not known."""
        self._scaled_layers(backbone)
        if self.scope == "target":
            for prompt in prompts:
                if prompt.target is None or prompt.regions is None:
                    raise ConfigError(f"decode.scope=target: record {prompt.id} {_NO_TARGET}")

    def factors(self, state: Prefill) -> torch.Tensor:
        """The factor of each prompt, by its confidence: float32[B]."""
        low, high = (state.confidence.new_tensor(value) for value in (self.alpha_low, self.alpha_high))
        return torch.where(state.confidence < self.threshold, low, high)

    def generation_context(self, backbone: Backbone, state: Prefill) -> AbstractContextManager[ImageScaling]:
        """Scale inside generation; beams share their prompt's factors."""
        image = state.image_mask.float()
        if self.scope == "target" and not _known(state).all():
            raise ConfigError(f"decode.scope=target: a prompt {_NO_TARGET}")
        scope = image if self.scope == "all" else state.coverage[..., TARGET]
        factors = 1.0 + (self.factors(state)[:, None] - 1.0) * scope
        scaling = ImageScaling(
            factors=factors.repeat_interleave(self.num_beams, 0),
            coverage=state.coverage.repeat_interleave(self.num_beams, 0),
            layers=self._scaled_layers(backbone),
            every_step=self.steps == "every",
        )
        return scaled_image_attention(scaling)

    def answer_fields(self, state: Prefill, scaling: ImageScaling) -> list[dict[str, Any]]:
        """Factor, and the ratios of the scaled row in every layer."""
        masses = torch.stack([scaling.masses[layer] for layer in sorted(scaling.masses)], 1)[:: self.num_beams]
        ratios_BN = (masses[..., TARGET] / masses[..., SOURCES]).tolist()
        return [
            {"factor": factor, "scaled_ratios": ratios if has_target else None}
            for factor, ratios, has_target in zip(
                self.factors(state).tolist(), ratios_BN, _known(state).tolist(), strict=True
            )
        ]

    def _scaled_layers(self, backbone: Backbone) -> frozenset[int] | None:
        """None for all. Raises ConfigError."""
        if self.layers is None:
            return None
        return frozenset(layer_band(backbone.num_layers, self.layers, key="decode.layers"))


def _known(state: Prefill) -> torch.Tensor:
    """Prompts whose target is known: bool[B]."""
    return state.coverage[..., TARGET].sum(1) > 0
