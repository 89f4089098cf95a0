"""Hinge on the normalised margin: the support vector machine among the preference losses."""

from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm


class HingeLoss(PreferenceTerm):
    """max(0, 1 - beta m), m = log-ratio of chosen less that of rejected.

    Source: RSO, arXiv 2309.06657, its `hinge-norm` loss (gamma there is our `beta`), which takes the rank
    hinge of SLiC-HF, arXiv 2305.10425, Eq. 1, from likelihoods to likelihoods relative to the reference.
    1 where policy equals reference, 0 with no gradient once the margin reaches 1 / beta nats.
    """

    name = "hinge"

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.log_ratios()
        return scores.mean_over_rejected((1 - self.beta * (chosen[:, None] - rejected)).relu())
