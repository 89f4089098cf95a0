"""ORPO: likelihood of the chosen response plus an odds-ratio penalty, no reference."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lookright.losses.base import PairScores, PreferenceTerm, Reads

NEAREST_TO_CERTAIN = -1e-6
"""Mean log-probability, nats per token, above which the odds stop growing; see `log_odds`."""


class ORPOLoss(PreferenceTerm):
    """NLL per token of chosen - beta log sigmoid(log odds(chosen) - log odds(rejected)).

    Source: ORPO, arXiv 2403.07691, Eq. 6 and 7, odds of Eq. 4 with p = exp(mean log p over the response's
    tokens); lambda there is our `beta`. The likelihood term is part of the loss, so `loss.gamma` stays 0.
    """

    name = "orpo"
    reads = Reads()
    contains_sft = True

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.policy_chosen.mean_logps, scores.policy_rejected.mean_logps
        odds_ratio = F.logsigmoid(log_odds(chosen)[:, None] - log_odds(rejected))
        return -chosen - self.beta * scores.mean_over_rejected(odds_ratio)

    def rewards(self, scores: PairScores) -> tuple[Tensor, Tensor]:
        """beta times the mean log-probability: float[P], float[P, k]."""
        return self.beta * scores.policy_chosen.mean_logps, self.beta * scores.policy_rejected.mean_logps


def log_odds(logps: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p <= 0, nats.

    A saturated answer reaches p = 1 in float32, where the odds are infinite; there log(1 - p) is held at
    its value for `NEAREST_TO_CERTAIN`, while log p keeps its gradient, so that a certain rejected answer
    is still pushed down.
    """
    held = logps.clamp(max=NEAREST_TO_CERTAIN)
    # Each branch loses all digits where the other is exact; log 1/2 is where they meet.
    near_one = torch.log(-torch.expm1(held.clamp(min=-math.log(2))))
    near_zero = torch.log1p(-torch.exp(held.clamp(max=-math.log(2))))
    return logps - torch.where(held > -math.log(2), near_one, near_zero)
