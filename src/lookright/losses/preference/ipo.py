"""Identity preference optimisation: regress the margin on a fixed target."""

from torch import Tensor

from lookright.errors import ParameterError
from lookright.losses.base import PairScores, PreferenceTerm


class IPOLoss(PreferenceTerm):
    """(m - 1 / (2 beta))^2, m = log-ratio of chosen less that of rejected, nats.

    Source: arXiv 2310.12036, Eq. 17 (its tau is our `beta`). `average=True` divides each log-ratio by its
    response's tokens first, which the equation does not say but TRL does after asking the authors: with
    it the target is a margin per token, so answers of any length weigh alike.
    """

    name = "ipo"

    def __init__(self, beta: float = 0.1, average: bool = False) -> None:
        super().__init__(beta)
        if not isinstance(average, bool):
            raise ParameterError("average", f"={average!r} is not a truth value; set true or false")
        self.average = average

    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P]."""
        chosen, rejected = scores.log_ratios()
        if self.average:
            chosen = chosen / scores.policy_chosen.num_tokens.clamp(min=1)
            rejected = rejected / scores.policy_rejected.num_tokens.clamp(min=1)
        return scores.mean_over_rejected((chosen[:, None] - rejected - 1 / (2 * self.beta)).square())
