"""Two runs on the same questions: an exact test of which is right more often, and the interval of the difference."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lookright.inference.intervals import Z_95, Estimate


@dataclass(slots=True, frozen=True, kw_only=True)
class Change:
    """One question's change from one run to the other: `value` is 1, 0 or -1.

    `stratum` is what means are taken over alike (the format); questions of one `cluster` are about the same
    picture, so they are not independent.
    """

    value: int
    stratum: str
    cluster: str


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value, exact, of so many questions gained and lost if either were as likely.

    It is that of the sign test: twice the smaller tail of Binomial(gained + lost, 1/2), at most 1. Source:
    Q. McNemar, Psychometrika 12, 1947, in the exact form. Raises ValueError for a negative count.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost are no counts")
    count = gained + lost
    ways = tail = 1
    for chosen in range(min(gained, lost)):
        ways = ways * (count - chosen) // (chosen + 1)
        tail += ways
    # whole numbers up to here: their quotient is exact to the last bit of a float
    return min(1.0, 2 * tail / 2**count)


def paired_difference(changes: Iterable[Change]) -> Estimate:
    """Mean change with its 95 % interval, in [-1, 1]: the unweighted mean over strata of their mean changes.

    The interval is normal with a variance that is robust to clusters: with w = 1 / (strata * questions of the
    stratum) and a question's residual e = w * (change - mean of its stratum), it is C / (C - 1) times the sum over
    the C clusters of the square of their summed e. Of one cluster there is no spread to tell, and no width. Source:
    Liang and Zeger, Biometrika 73, 1986. Raises ValueError for no question.
    """
    found = list(changes)
    if not found:
        raise ValueError("the mean change of no question")
    counts = Counter(change.stratum for change in found)
    sums: Counter[str] = Counter()
    for change in found:
        sums[change.stratum] += change.value
    value = math.fsum(sums[name] / count for name, count in counts.items()) / len(counts)
    residuals: dict[str, float] = defaultdict(float)
    for change in found:
        count = counts[change.stratum]
        residuals[change.cluster] += (change.value - sums[change.stratum] / count) / (len(counts) * count)
    clusters = len(residuals)
    spread = math.sqrt(math.fsum(part**2 for part in residuals.values()) * clusters / max(clusters - 1, 1))
    half = Z_95 * spread if clusters > 1 else 0.0
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half), count=len(found))
