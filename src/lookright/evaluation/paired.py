"""Two runs on the same questions: an exact test of which is right more often, and the interval of the difference."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lookright.evaluation.intervals import Z_95, Estimate


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

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005): in each stratum half a question more of each
    outcome of two runs (gained, lost, both, neither), then the normal interval, which so has a width where nothing
    changed. Questions of a cluster enter as one observation, the sum of their residuals (Liang and Zeger, Biometrika
    73, 1986); where every cluster is one question, it is the published interval. Raises ValueError for no question.
    """
    found = list(changes)
    if not found:
        raise ValueError("the mean change of no question")
    counts = Counter(change.stratum for change in found)
    sums: Counter[str] = Counter()
    for change in found:
        sums[change.stratum] += change.value
    # half a question gained and half a question lost leave a sum as it is
    centres = {name: sums[name] / (count + 2) for name, count in counts.items()}
    weights = {name: 1 / (len(counts) * (count + 2)) for name, count in counts.items()}
    residuals: dict[str, float] = defaultdict(float)
    for change in found:
        residuals[change.cluster] += weights[change.stratum] * (change.value - centres[change.stratum])
    squares = [part**2 for part in residuals.values()]
    for name, weight in weights.items():
        squares += [0.5 * (weight * (value - centres[name])) ** 2 for value in (1, -1, 0, 0)]
    value = math.fsum(sums[name] / count for name, count in counts.items()) / len(counts)
    centre, half = math.fsum(centres.values()) / len(counts), Z_95 * math.sqrt(math.fsum(squares))
    # rounding, or very few questions, must not put an end on the wrong side of the value
    return Estimate(
        value=value,
        low=max(-1.0, min(value, centre - half)),
        high=min(1.0, max(value, centre + half)),
        count=len(found),
    )
