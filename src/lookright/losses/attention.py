"""The attention-aware term: look at the image that the question is about."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.losses.base import AttentionRead, PairScores, Reads, Term, in_range, widen
from lookright.packing.logprobs import RATIO_ROWS


class AttentionLoss(Term):
    """max(0, threshold - attention ratio) of the chosen response, the ratio a mean over a band of layers.

    Source: Attention-Aware DPO. `threshold` is a share in (0, 1]; above it a pair has neither loss nor
    gradient. `layers` and `positions` say where the ratio is read (see `AttentionRead`). Later positions than the
    first have read part of the chosen answer and can find the target by it; with answers of a word or two, such
    positions are half of all.
    """

    def __init__(
        self,
        threshold: float = 0.75,
        layers: Sequence[int] | Sequence[float] | None = None,
        positions: str = RATIO_ROWS[0],
    ) -> None:
        self.threshold = in_range("threshold", threshold, above=0.0, maximum=1.0)
        self.reads = Reads(attention=AttentionRead(layers, positions))

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute float[P]. Raises ValueError where no ratio was computed or it is cut from the graph."""
        ratio = scores.attention_ratio
        if ratio is None:
            raise ValueError(
                "the attention term needs the attention ratio and none was computed: "
                "read what CompositeLoss.attention_reads names"
            )
        # A ratio without a graph trains nothing, in silence: the defect that this term once had elsewhere.
        if torch.is_grad_enabled() and scores.policy_chosen.logps.requires_grad and not ratio.requires_grad:
            raise ValueError("the attention ratio carries no gradient: it must be computed inside the graph")
        return (self.threshold - widen(ratio)).relu()
