"""Direct preference optimisation, optionally with smoothed labels."""

import torch.nn.functional as F
from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm, in_range


class DPOLoss(PreferenceTerm):
    """-(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m), m = log-ratio of chosen less that of rejected.

    Source: DPO, arXiv 2305.18290, Eq. 7 (e = 0); the smoothed form is conservative DPO, E. Mitchell,
    "A note on DPO with noisy preferences", 2023, Eq. 3. Several rejected: the mean of their pairs' losses.
    `beta` is in 1/nats, `label_smoothing` the assumed share of swapped pairs, in [0, 0.5).
    """

    name = "dpo"

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__(beta)
        self.label_smoothing = in_range("label_smoothing", label_smoothing, minimum=0.0, below=0.5)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.log_ratios()
        logits_Pk = self.beta * (chosen[:, None] - rejected)
        loss_Pk = -F.logsigmoid(logits_Pk)
        if self.label_smoothing:
            loss_Pk = (1 - self.label_smoothing) * loss_Pk - self.label_smoothing * F.logsigmoid(-logits_Pk)
        return scores.mean_over_rejected(loss_Pk)
