"""95 % intervals of proportions, of their mean, and of a mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, all in the same unit; `count` is the number of observations behind it."""

    value: float
    low: float
    high: float
    count: int


def wilson(successes: int, count: int) -> Estimate:
    """Proportion in [0, 1] with its score interval. Raises ValueError for no trial.

    Source: E. B. Wilson, JASA 22, 1927.
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"{successes} successes of {count} is no proportion")
    share, z2 = successes / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # Rounding must not put the end on the wrong side of the value at 0 and 1.
    return Estimate(
        value=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)), count=count
    )


def mean_of_proportions(parts: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of independent proportions; `count` adds up theirs.

    The distance from the mean to each end is sqrt(sum of squared distances of the parts) / number of parts,
    with the parts' own Wilson ends: the method of variance estimates recovery (Zou and Donner, Statistics
    in Medicine 27, 2008; Newcombe, 1998, for differences). For wide samples it is the normal
    approximation; it stays inside [0, 1], does not collapse at 0 or 1, and is Wilson's for a single part.
    Raises ValueError for no part.
    """
    if not parts:
        raise ValueError("the mean of no proportion")
    mean = sum(part.value for part in parts) / len(parts)
    down = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    up = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(value=mean, low=mean - down, high=mean + up, count=sum(part.count for part in parts))


def mean_of_few(values: Sequence[float]) -> Estimate:
    """Mean of independent observations, such as runs of several seeds, with Student's interval: mean +- t s / sqrt(n).

    Source: Student, Biometrika 6, 1908. Raises ValueError for fewer than two, which tell nothing of their spread.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} observations have no interval")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_quantile(count - 1) * math.sqrt(variance / count)
    return Estimate(value=mean, low=mean - half, high=mean + half, count=count)


def student_quantile(freedom: int, inside: float = 0.95) -> float:
    """The t > 0 that leaves the share `inside` of Student's distribution in [-t, t]; `freedom` >= 1, whole.

    Solved by halving an interval of the angle atan(t / sqrt(freedom)), in which the share is a finite sum.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _student_share(middle, freedom) < inside else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _student_share(angle: float, freedom: int) -> float:
    """Share of Student's distribution in [-t, t], t = sqrt(freedom) tan(angle).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    # powers of the cosine up to freedom - 2
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share


@dataclass(slots=True)
class RunningMean:
    """Mean and variance of a stream, in constant memory. Source: B. P. Welford, Technometrics 4, 1962."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def add(self, value: float) -> None:
        """One observation."""
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)

    def estimate(self) -> Estimate:
        """Normal interval, mean +- 1.96 s / sqrt(n), of no width for one observation. Raises ValueError for none."""
        if not self.count:
            raise ValueError("the mean of no observation")
        spread = math.sqrt(self.squares / (self.count - 1) / self.count) if self.count > 1 else 0.0
        return Estimate(
            value=self.mean, low=self.mean - Z_95 * spread, high=self.mean + Z_95 * spread, count=self.count
        )
