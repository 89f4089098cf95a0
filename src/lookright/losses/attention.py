"""The attention-aware term: look at the image that the question is about."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.errors import ParameterError
from lookright.losses.base import AttentionRead, PairScores, Reads, Term, in_range, widen
from lookright.packing.logprobs import RATIO_ROWS


class AttentionLoss(Term):
    """max(0, threshold - attention ratio) of the chosen response, the ratio a mean over a band of layers.

    Source: Attention-Aware DPO. `threshold` is a share in (0, 1]; above it a pair has neither loss nor
    gradient. `layers` and `positions` say where the ratio is read (see `AttentionRead`). Later positions than the
    first have read part of the chosen answer and can find the target by it; with answers of a word or two, such
    positions are half of all. `formats` are those whose pairs are held to the threshold, None for all: where one
    image lies upon another, tokens around it show it too, and a model may read it there.
    """

    def __init__(
        self,
        threshold: float = 0.75,
        layers: Sequence[int] | Sequence[float] | None = None,
        positions: str = RATIO_ROWS[0],
        formats: Sequence[str] | None = None,
    ) -> None:
        self.threshold = in_range("threshold", threshold, above=0.0, maximum=1.0)
        self.reads = Reads(attention=AttentionRead(layers, positions))
        if formats is not None and len(formats) == 0:
            raise ParameterError("formats", "=[] holds no pair; name formats, set null for all, or set weight to 0")
        self.formats = None if formats is None else frozenset(formats)

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
        ratio = widen(ratio)
        if self.formats is not None:
            held = torch.tensor(
                [name in self.formats for name in scores.formats], dtype=torch.bool, device=ratio.device
            )
            # at the threshold there is neither loss nor gradient, also where a ratio is not known
            ratio = torch.where(held, ratio, self.threshold)
        return (self.threshold - ratio).relu()
