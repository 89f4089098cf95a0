"""Two runs on the same questions: an exact test of which is right more often, and the interval of the difference."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lookright.evaluation.intervals import Z_95, Estimate


@dataclass(slots=True, frozen=True, kw_only=True)
class Bootstrap:
    """How often pictures are drawn again, and from which seed."""

    num_draws: int = 10_000
    seed: int = 0


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


def bootstrap_difference(changes: Iterable[Change], bootstrap: Bootstrap) -> Estimate:
    """Mean change, as `paired_difference`, with the percentile interval of a bootstrap over clusters.

    As many clusters as there are, in order of their names, are drawn with replacement, all questions of each; strata
    of which a draw has no question are not in its mean. Source: B. Efron and R. Tibshirani, An Introduction to the
    Bootstrap, 1993, sections 8.3 and 13.3. Raises ValueError for no question.
    """
    found = list(changes)
    if not found:
        raise ValueError("the mean change of no question")
    clusters = {name: place for place, name in enumerate(sorted({change.cluster for change in found}))}
    strata = {name: place for place, name in enumerate(sorted({change.stratum for change in found}))}
    # [clusters, strata]
    sums, counts = np.zeros((2, len(clusters), len(strata)))
    for change in found:
        place = clusters[change.cluster], strata[change.stratum]
        sums[place] += change.value
        counts[place] += 1
    rng = np.random.default_rng(bootstrap.seed)
    means = np.empty(bootstrap.num_draws)
    for draw in range(bootstrap.num_draws):
        times = np.bincount(rng.integers(len(clusters), size=len(clusters)), minlength=len(clusters))
        asked = times @ counts
        means[draw] = (times @ sums)[asked > 0] @ (1 / asked[asked > 0]) / np.count_nonzero(asked)
    value = math.fsum(sums.sum(0) / counts.sum(0)) / len(strata)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)), count=len(found))


def design_effect(changes: Sequence[Change]) -> float:
    """How many times the variance of the mean change is what independent questions would give; at least 1.

    The sum of squared residual sums of clusters over that of residuals. Source: L. Kish, Survey Sampling, 1965, 8.2.
    """
    mean = math.fsum(change.value for change in changes) / len(changes)
    residuals: dict[str, float] = defaultdict(float)
    for change in changes:
        residuals[change.cluster] += change.value - mean
    alone = math.fsum((change.value - mean) ** 2 for change in changes)
    return max(1.0, math.fsum(part**2 for part in residuals.values()) / alone) if alone > 0 else 1.0


def questions_for_a_point(discordant: float, effect: float = 1.0, points: float = 1.0) -> int:
    """Questions from which on a difference of so many percentage points lies outside of its 95 % interval.

    n = effect z^2 (d - delta^2) / delta^2, with d the share of `discordant` questions, on which one run alone is
    right, delta = points / 100: a paired difference has the variance (d - delta^2) / n. Where d is below delta, which
    could not be that large, delta is taken for it. Source: R. Connor, Biometrics 43, 1987, without its power.
    """
    delta = points / 100
    return math.ceil(effect * (Z_95 / delta) ** 2 * (max(discordant, delta) - delta**2))
