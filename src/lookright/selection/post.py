"""Post-selection: three metrics of a pair, each its own small object."""

from rapidfuzz.distance import Levenshtein

from lookright.common.answers import words
from lookright.errors import ConfigError, RecordError
from lookright.selection.base import Candidate


class PerplexityFilter:
    """Keeps an answer whose perplexity is above `minimum`: a surer one hallucinates less. Source: MIA-DPO."""

    reason = "perplexity"

    def __init__(self, minimum: float = 1.1) -> None:
        if not minimum >= 1:
            raise ConfigError(f"filters.perplexity.minimum={minimum!r} is out of range; set a number >= 1")
        self.minimum = minimum

    def score(self, candidate: Candidate) -> float:
        """exp(-mean log p) of the answer's own tokens. Raises RecordError (`no_perplexity`) where it is missing."""
        if candidate.perplexity is None or candidate.perplexity != candidate.perplexity:
            raise RecordError(
                "no_perplexity",
                f"{candidate.id}: perplexity is {candidate.perplexity}, and a filter decides by it; "
                "run stage=answer again, or remove the perplexity filter",
            )
        return candidate.perplexity

    def keeps(self, score: float) -> bool:
        """Strictly above."""
        return score > self.minimum


class LengthRatioFilter:
    """Keeps a pair whose words (chosen over rejected) are within `minimum` and `maximum`, both included.

    MIA-DPO names the metric and publishes neither unit nor limits. Words, not tokens, so that a pair is
    judged alike for every backbone; not characters, so that "no" against "triangle" is no disparity.
    Text without spaces counts as one word. An empty answer has ratio 0, which only `minimum=0` keeps.
    """

    reason = "length_ratio"

    def __init__(self, minimum: float = 0.33, maximum: float = 3.0) -> None:
        if not 0 <= minimum <= 1 <= maximum:
            raise ConfigError(
                f"filters.length_ratio.minimum={minimum!r}, filters.length_ratio.maximum={maximum!r}: "
                "set 0 <= minimum <= 1 <= maximum"
            )
        self.minimum, self.maximum = minimum, maximum

    def score(self, candidate: Candidate) -> float:
        """Words of chosen over words of rejected; 0 where either is empty."""
        num_rejected = len(words(candidate.rejected))
        return len(words(candidate.chosen)) / num_rejected if num_rejected else 0.0

    def keeps(self, score: float) -> bool:
        """Between the limits."""
        return self.minimum <= score <= self.maximum


class EditDistanceFilter:
    """Keeps a pair whose normalised Levenshtein distance in characters is at least `minimum`.

    MIA-DPO names the metric and publishes no limit. Pairs that are too similar teach nothing.
    """

    reason = "edit_distance"

    def __init__(self, minimum: float = 0.1) -> None:
        if not 0 <= minimum <= 1:
            raise ConfigError(f"filters.edit_distance.minimum={minimum!r} is out of range; set a number in [0, 1]")
        self.minimum = minimum

    def score(self, candidate: Candidate) -> float:
        """0 for equal texts, 1 where nothing is shared; spaces around an answer do not count."""
        return Levenshtein.normalized_distance(candidate.chosen.strip(), candidate.rejected.strip())

    def keeps(self, score: float) -> bool:
        """At the limit or above."""
        return score >= self.minimum
