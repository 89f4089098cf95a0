"""The weighted sum of loss terms."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, Term, in_range
from lookright.packing.logprobs import RATIO_ROWS


class CompositeLoss:
    """Sum of weight times term. A term of weight 0 is dropped: not evaluated, its needs do not count.

    `terms` maps a name to (weight, term). Raises ConfigError for a negative weight and where every weight is 0.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Term]]) -> None:
        weights = {name: in_range(f"weight of loss term {name}", pair[0], minimum=0.0) for name, pair in terms.items()}
        self.terms: dict[str, tuple[float, Term]] = {
            name: (weights[name], term) for name, (_, term) in terms.items() if weights[name] > 0
        }
        if not self.terms:
            raise ConfigError(
                f"every loss term has weight 0 ({', '.join(terms) or 'no term given'}): nothing would train; "
                "set loss.alpha, loss.gamma or loss.attention.weight above 0"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether an active term compares with the reference."""
        return any(term.needs_reference for _, term in self.terms.values())

    @property
    def needs_attention(self) -> bool:
        """Whether an active term reads the attention ratio."""
        return any(term.needs_attention for _, term in self.terms.values())

    @property
    def attention_layers(self) -> Sequence[int] | Sequence[float] | None:
        """What the active attention term asks for, as `layer_band` takes it; None is the default band."""
        return next((getattr(term, "layers", None) for _, term in self.terms.values() if term.needs_attention), None)

    @property
    def attention_rows(self) -> str:
        """Which rows the active attention term reads; those of the whole response where there is none."""
        return next(
            (getattr(term, "rows", RATIO_ROWS[0]) for _, term in self.terms.values() if term.needs_attention),
            RATIO_ROWS[0],
        )

    def __call__(self, scores: PairScores) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss float[P], and each term unweighted and detached under `loss_<name>`, float[P]."""
        values = {name: term(scores) for name, (_, term) in self.terms.items()}
        loss = sum(weight * values[name] for name, (weight, _) in self.terms.items())
        return loss, {f"loss_{name}": value.detach() for name, value in values.items()}

    def metrics(self, scores: PairScores) -> dict[str, Tensor]:
        """What the active terms report beside their loss: float[P] each."""
        found: dict[str, Tensor] = {}
        for _, term in self.terms.values():
            if hasattr(term, "metrics"):
                found.update(term.metrics(scores))
        return found

    def __repr__(self) -> str:
        return " + ".join(f"{weight:g} x {name}" for name, (weight, _) in self.terms.items())
