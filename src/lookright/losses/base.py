"""What a loss term sees and what it gives back.

Shapes: P pairs, k the widest number of rejected responses of a pair. Log-probabilities are in nats.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lookright.errors import ConfigError


@dataclass(slots=True, kw_only=True)
class Segment:
    """The policy's side of one kind of response.

    `logps` float[P] or float[P, k] is summed over response tokens, `num_tokens` int of the same shape
    counts them; `mask` bool[P, k] is False where a pair has fewer than k rejected (None: all are there).
    """

    logps: Tensor
    num_tokens: Tensor
    mask: Tensor | None = None

    @property
    def mean_logps(self) -> Tensor:
        """Log-probability per response token, nats: shape of `logps`."""
        return widen(self.logps) / self.num_tokens.clamp(min=1)


@dataclass(slots=True, kw_only=True)
class PairScores:
    """Everything that a term may look at; None is what no active term asked for.

    `policy_chosen` has float[P], `policy_rejected` float[P, k]; the reference's summed log-probabilities
    have the same shapes. `attention_ratio` float[P] is that of the chosen response, with its graph.
    """

    policy_chosen: Segment
    policy_rejected: Segment
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    attention_ratio: Tensor | None = None

    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log pi - log ref of both sides, nats: float[P], float[P, k]. Raises ValueError without a reference."""
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError(
                "a loss term needs the reference's log-probabilities and none were computed: "
                "run the reference whenever CompositeLoss.needs_reference is true"
            )
        chosen = widen(self.policy_chosen.logps) - widen(self.reference_chosen)
        return chosen, widen(self.policy_rejected.logps) - widen(self.reference_rejected)

    @torch.no_grad()
    def logps_margins(self) -> dict[str, Tensor]:
        """Log-probability of the chosen response over the mean rejected one, nats: float[P], of each model that ran."""
        policy = widen(self.policy_chosen.logps) - self.mean_over_rejected(widen(self.policy_rejected.logps))
        if self.reference_chosen is None or self.reference_rejected is None:
            return {"logps_margin": policy}
        reference = widen(self.reference_chosen) - self.mean_over_rejected(widen(self.reference_rejected))
        return {"logps_margin": policy, "reference_logps_margin": reference}

    def mean_over_rejected(self, values: Tensor) -> Tensor:
        """Average float[P, k] over each pair's own rejected responses: float[P]; padding gets no gradient."""
        mask = self.policy_rejected.mask
        if mask is None:
            return values.mean(dim=1)
        return torch.where(mask, values, 0.0).sum(dim=1) / mask.sum(dim=1)


@runtime_checkable
class Term(Protocol):
    """One addend of the loss. It may also have `metrics(scores) -> dict[str, Tensor]`, float[P] each."""

    name: str
    needs_reference: bool
    needs_attention: bool

    def __call__(self, scores: PairScores) -> Tensor:
        """One value per pair: float[P], float32 or wider."""
        ...


class PreferenceTerm(ABC):
    """A term that ranks chosen above rejected; a subclass in `losses/preference/` is a `loss.kind`."""

    name: str
    needs_reference = True
    needs_attention = False
    contains_sft = False
    """True where the published loss already holds a likelihood term, which `loss.gamma` would double."""

    def __init__(self, beta: float) -> None:
        self.beta = in_range("loss.beta", beta, above=0.0)

    @abstractmethod
    def __call__(self, scores: PairScores) -> Tensor:
        """One value per pair: float[P], float32 or wider."""

    def rewards(self, scores: PairScores) -> tuple[Tensor, Tensor]:
        """The loss's implicit rewards of both sides: float[P], float[P, k]."""
        chosen, rejected = scores.log_ratios()
        return self.beta * chosen, self.beta * rejected

    @torch.no_grad()
    def metrics(self, scores: PairScores) -> dict[str, Tensor]:
        """Rewards, their margin, and the share of a pair's rejected that the chosen beats: float[P] each."""
        chosen, rejected = self.rewards(scores)
        wins = (chosen[:, None] > rejected).to(chosen.dtype)
        mean_rejected = scores.mean_over_rejected(rejected)
        return {
            "reward_chosen": chosen,
            "reward_rejected": mean_rejected,
            "reward_margin": chosen - mean_rejected,
            "reward_accuracy": scores.mean_over_rejected(wins),
        }


def widen(values: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay as they are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def in_range(
    key: str, value: float, *, above: float | None = None, minimum: float | None = None, below: float | None = None
) -> float:
    """`value` as a float, or ConfigError with `key` and the valid range (`above` and `below` exclusive)."""
    limits = [f"{sign} {limit:g}" for sign, limit in ((">", above), (">=", minimum), ("<", below)) if limit is not None]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = number and (above is None or value > above) and (minimum is None or value >= minimum)
    if not inside or (below is not None and not value < below) or value in (float("inf"), float("-inf")):
        raise ConfigError(f"{key}={value!r} is out of range; set a number {' and '.join(limits)}")
    return float(value)
