"""The attention-aware term: look at the image that the question is about."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, in_range, widen
from lookright.packing.logprobs import RATIO_ROWS, check_rows


class AttentionLoss:
    """max(0, threshold - attention ratio) of the chosen response, the ratio a mean over a band of layers.

    Source: Attention-Aware DPO. `threshold` is a share in (0, 1]; above it a pair has neither loss nor
    gradient. `layers` says which layers the ratio is read from (see `losses.band.layer_band`). `rows`: see
    `logprobs.RATIO_ROWS`. Later rows than the first have read part of the chosen answer and can find the target by
    it; with answers of a word or two, such rows are half of all.
    """

    name = "attention"
    needs_reference = False
    needs_attention = True

    def __init__(
        self,
        threshold: float = 0.75,
        layers: Sequence[int] | Sequence[float] | None = None,
        rows: str = RATIO_ROWS[0],
    ) -> None:
        self.rows = check_rows(rows, "loss.attention.rows")
        self.threshold = in_range("loss.attention.threshold", threshold, above=0.0)
        if self.threshold > 1:
            raise ConfigError(f"loss.attention.threshold={threshold!r} is out of range; a ratio lies in (0, 1]")
        self.layers = layers

    def __call__(self, scores: PairScores) -> Tensor:
        """float[P]. Raises ValueError where no ratio was computed or it is cut from the graph."""
        ratio = scores.attention_ratio
        if ratio is None:
            raise ValueError(
                "the attention term needs the attention ratio and none was computed: "
                "read attention rows whenever CompositeLoss.needs_attention is true"
            )
        # A ratio without a graph trains nothing, in silence: the defect that this term once had elsewhere.
        if torch.is_grad_enabled() and scores.policy_chosen.logps.requires_grad and not ratio.requires_grad:
            raise ValueError("the attention ratio carries no gradient: it must be computed inside the graph")
        return (self.threshold - widen(ratio)).relu()

    @torch.no_grad()
    def metrics(self, scores: PairScores) -> dict[str, Tensor]:
        """The ratio itself: float[P]."""
        return {} if scores.attention_ratio is None else {"attention_ratio": widen(scores.attention_ratio)}
