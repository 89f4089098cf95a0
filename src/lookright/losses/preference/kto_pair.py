"""KTO on paired data: each response against a baseline of its batch."""

import torch
from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm


class KTOPairLoss(PreferenceTerm):
    """Mean of 1 - sigmoid(beta (r_chosen - z_rejected)) and 1 - sigmoid(beta (z_chosen - r_rejected)).

    Source: KTO, arXiv 2402.01306, Eq. 7, with both weights 1; r is a log-ratio in nats. z estimates the
    divergence from the reference by max(0, batch mean of r), each side from the other half of the batch as
    in the paired form that TRL had as `kto_pair`; no gradient flows through it, as the paper says.
    One half where policy equals reference.

    The one term whose value for a pair depends on the other pairs of its (local) batch: eight steps of
    one pair are not one step of eight.
    """

    name = "kto_pair"

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.log_ratios()
        mask = scores.policy_rejected.mask
        z_chosen = chosen.detach().mean().clamp(min=0)
        z_rejected = (rejected if mask is None else rejected[mask]).detach().mean().clamp(min=0)
        loss_chosen = torch.sigmoid(self.beta * (z_rejected - chosen))
        loss_rejected = torch.sigmoid(self.beta * (rejected - z_chosen))
        return (loss_chosen + scores.mean_over_rejected(loss_rejected)) / 2
