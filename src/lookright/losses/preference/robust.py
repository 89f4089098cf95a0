"""Robust DPO: unbiased under swapped labels."""

import torch.nn.functional as F
from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm, in_range


class RobustDPOLoss(PreferenceTerm):
    """[(1 - e) L(chosen, rejected) - e L(rejected, chosen)] / (1 - 2 e), L the DPO loss.

    Source: Chowdhury, Kini, Natarajan, "Provably Robust DPO", arXiv 2403.00409: the de-biased loss that
    it calls rDPO. Unlike smoothed DPO its expectation under labels swapped with probability e
    (`label_smoothing`, in (0, 0.5)) is the clean loss; a single value may be negative.
    """

    name = "robust"

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.1) -> None:
        super().__init__(beta)
        # 0 is plain DPO under another name: a run labelled "robust" should not be that.
        self.label_smoothing = in_range("label_smoothing", label_smoothing, above=0.0, below=0.5)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.log_ratios()
        logits_Pk = self.beta * (chosen[:, None] - rejected)
        flip = self.label_smoothing
        loss_Pk = (flip * F.logsigmoid(-logits_Pk) - (1 - flip) * F.logsigmoid(logits_Pk)) / (1 - 2 * flip)
        return scores.mean_over_rejected(loss_Pk)
