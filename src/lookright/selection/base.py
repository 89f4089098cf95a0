"""What selection looks at and what it says."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(slots=True, frozen=True, kw_only=True)
class Candidate:
    """A model's own answer beside the ground truth.

    `chosen` is the ground truth, `rejected` the answer; `attention_ratio` and `even_ratio` (of an even look) in
    [0, 1] and `perplexity` (>= 1) are None where they were not measured. `companion_answers` are what the same
    question is answered for the other shown images, as far as that is known. Candidates of one prompt have ids of
    their own; `repeated` is one whose answer an earlier one of them gives already.
    """

    id: str
    format: str
    num_sources: int
    chosen: str
    rejected: str
    attention_ratio: float | None = None
    even_ratio: float | None = None
    perplexity: float | None = None
    companion_answers: tuple[str, ...] = ()
    repeated: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class Decision:
    """Whether a candidate becomes a pair. `reason` is the first drop's short name, None where it is kept."""

    keep: bool
    reason: str | None = None
    scores: dict[str, float] = field(default_factory=dict)


class Selection(ABC):
    """Which wrong answers are taken, before post-selection; a rule of one's own only says what it `keeps`."""

    reasons: tuple[str, ...] = ("not_selected",)
    """Under which its drops are counted, in the order in which they are looked for."""
    needs_attention: bool = False
    """Whether it reads the attention ratio at all."""
    needs_companions: bool = False
    """Whether it reads the answers of the other shown images."""
    needs_prepare: bool = False
    """Whether it must see every eligible candidate once before it can decide on the first."""

    def see(self, candidate: Candidate) -> None:
        """Learn in a first pass, called for each candidate that may become a pair, if `needs_prepare`."""
        del candidate

    @abstractmethod
    def keeps(self, candidate: Candidate) -> bool:
        """Return whether a candidate is taken. Raises RecordError for one without what the rule needs."""

    def drop_reason(self, candidate: Candidate) -> str:
        """Return which of `reasons` a candidate that is not kept falls under; the first unless overridden."""
        del candidate
        return self.reasons[0]


@runtime_checkable
class PostFilter(Protocol):
    """One metric of post-selection."""

    reason: str
    """Name of its score and of its drops."""

    def score(self, candidate: Candidate) -> float:
        """Raises RecordError where the metric cannot be had."""
        ...

    def keeps(self, score: float) -> bool:
        """Whether a candidate with this score stays."""
        ...
