"""SimPO: average log-probabilities as rewards, no reference."""

import torch.nn.functional as F
from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm, Reads, in_range


class SimPOLoss(PreferenceTerm):
    """-log sigmoid(beta (mean log p of chosen - mean log p of rejected) - target_margin).

    Source: SimPO, arXiv 2405.14734, Eq. 6 (gamma there is our `target_margin`). The means are over a
    response's tokens, nats per token. `beta` is 2.0 to 2.5 in the paper, far above that of DPO.
    """

    name = "simpo"
    reads = Reads()

    def __init__(self, beta: float = 2.0, target_margin: float = 1.0) -> None:
        super().__init__(beta)
        self.target_margin = in_range("target_margin", target_margin, minimum=0.0)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = self.rewards(scores)
        return scores.mean_over_rejected(-F.logsigmoid(chosen[:, None] - rejected - self.target_margin))

    def rewards(self, scores: PairScores) -> tuple[Tensor, Tensor]:
        """beta times the mean log-probability (Eq. 4): float[P], float[P, k]."""
        return self.beta * scores.policy_chosen.mean_logps, self.beta * scores.policy_rejected.mean_logps
