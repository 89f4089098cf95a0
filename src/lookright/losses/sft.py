"""Likelihood of the chosen response."""

from torch import Tensor

from lookright.losses.base import PairScores, Term


class SFTLoss(Term):
    """Negative log-likelihood per token of the chosen response, nats.

    Averaged over a pair's own tokens and then over pairs, so that a long answer does not outweigh a short
    one and the value of a pair does not depend on its batch (TRL averages over all tokens of a batch).
    """

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute float[P]."""
        return -scores.policy_chosen.mean_logps
