"""What a loss term sees, what it says that it reads, and what it gives back.

Shapes: P pairs, k the widest number of rejected responses of a pair. Log-probabilities are in nats.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lookright.errors import ParameterError
from lookright.packing.logprobs import RATIO_ROWS


@dataclass(slots=True, frozen=True)
class AttentionRead:
    """Where a term reads the attention ratio of the chosen response.

    `layers` as `attention.band.layer_band` takes them: whole numbers, two shares of the depth, or None for the
    default band. `positions`: which tokens' predictions are read, one of `packing.logprobs.RATIO_ROWS`. Terms that
    read the same share one ratio. Raises ParameterError for other positions.
    """

    layers: Sequence[int] | Sequence[float] | None = None
    positions: str = RATIO_ROWS[0]

    def __post_init__(self) -> None:
        if self.positions not in RATIO_ROWS:
            raise ParameterError("positions", f"={self.positions!r}; valid: {', '.join(RATIO_ROWS)}")
        if isinstance(self.layers, Sequence) and not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))


@dataclass(slots=True, frozen=True, kw_only=True)
class Reads:
    """What a term needs beside the policy's log-probabilities; what no active term reads is not computed."""

    reference: bool = False
    attention: AttentionRead | None = None


@dataclass(slots=True, kw_only=True)
class SideScores:
    """The policy's scores of one side of the pairs: the chosen responses, or the rejected ones.

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
    have the same shapes. `attention_ratio` float[P] is that of the chosen response, with its graph, and
    `attention_ratios` hold it for each of several reads: a `CompositeLoss` shows each term its own. `formats` names
    that of each of the P pairs.
    """

    policy_chosen: SideScores
    policy_rejected: SideScores
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    attention_ratio: Tensor | None = None
    attention_ratios: Mapping[AttentionRead, Tensor] = field(default_factory=dict)
    formats: Sequence[str] = ()

    def seen_by(self, term: "Term") -> "PairScores":
        """The same scores with the attention ratio that `term` reads."""
        read = term.reads.attention
        if read is None or read not in self.attention_ratios:
            return self
        return replace(self, attention_ratio=self.attention_ratios[read])

    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log pi - log ref of both sides, nats: float[P], float[P, k]. Raises ValueError without a reference."""
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError(
                "a loss term needs the reference's log-probabilities and none were computed: "
                "run the reference whenever CompositeLoss.needs_reference is true, and let the term say "
                "reads = Reads(reference=True)"
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


class Term(ABC):
    """One addend of the loss: a class of its own, chosen by `_target_`, with its options as constructor arguments."""

    reads = Reads()
    name: str | None = None
    """What metrics call the term (`loss_<name>`); None is its key in the loss's `terms`."""
    contains_sft = False
    """True where the published loss already holds a likelihood term, which `loss.gamma` would double."""

    @abstractmethod
    def __call__(self, scores: PairScores) -> Tensor:
        """Compute one value per pair: float[P], float32 or wider."""

    def metrics(self, scores: PairScores) -> dict[str, Tensor]:
        """Return what is worth logging beside the loss: float[P] each; nothing by itself."""
        del scores
        return {}


class PreferenceTerm(Term):
    """A term that ranks chosen above rejected; its YAML in `conf/loss/kind/` makes it a choice of `loss/kind`."""

    reads = Reads(reference=True)

    def __init__(self, beta: float) -> None:
        self.beta = in_range("beta", beta, above=0.0)

    def rewards(self, scores: PairScores) -> tuple[Tensor, Tensor]:
        """Return the loss's implicit rewards of both sides: float[P], float[P, k]."""
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
    name: str,
    value: float,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> float:
    """Return `value` as a float; raises ParameterError with the valid range of the constructor argument `name`.

    `above` and `below` are exclusive.
    """
    bounds = ((">", above), (">=", minimum), ("<", below), ("<=", maximum))
    limits = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds if limit is not None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = number and (above is None or value > above) and (minimum is None or value >= minimum)
    inside = inside and (below is None or value < below) and (maximum is None or value <= maximum)
    if not inside or value in (float("inf"), float("-inf")):
        raise ParameterError(name, f"={value!r} is out of range; set a number {limits}")
    return float(value)
