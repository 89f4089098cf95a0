"""Paired tests and intervals: against SciPy, by hand, and against what is drawn again and again."""

import math
import random

import pytest
from scipy.stats import binomtest

from lookright.inference.paired import Change, mcnemar, paired_difference

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (0, 5), (3, 3), (7, 2), (60, 41), (225, 43), (990, 1010), (1500, 1200)]
)
def test_mcnemar_is_scipys_binomial_test(gained: int, lost: int) -> None:
    wanted = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_by_hand() -> None:
    # 1 lost and 5 gained: 2 (1 + 6) / 64
    assert mcnemar(5, 1) == 14 / 64
    assert 0 < mcnemar(1000, 0) == 2.0**-999 and mcnemar(3000, 0) == 0.0
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


def changes(*groups: tuple[str, str, list[int]]) -> list[Change]:
    return [
        Change(value=value, stratum=stratum, cluster=f"{cluster}{'' if cluster != '-' else f'{stratum}{place}'}")
        for stratum, cluster, values in groups
        for place, value in enumerate(values)
    ]


def test_independent_questions_have_the_interval_of_a_mean() -> None:
    """Every cluster one question of one format: the mean's own s / sqrt(n)."""
    values = [1, 1, 1, 0, 0, 0, 0, -1]
    found = paired_difference(changes(("sequence", "-", values)))
    variance = sum((value - 0.25) ** 2 for value in values) / 7
    assert found.value == pytest.approx(0.25) and found.count == 8
    assert found.high - found.value == pytest.approx(Z * math.sqrt(variance / 8), rel=1e-12)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_questions_about_one_picture_by_hand() -> None:
    """Two pictures, asked twice each with the same outcome: they are two observations, not four."""
    found = paired_difference(changes(("sequence", "a", [1, 1]), ("sequence", "b", [0, 0])))
    # residuals of a picture: 2 * (1 - 0.5) / 4 = 0.25 and -0.25; 2 / 1 * (0.0625 + 0.0625)
    assert found.value == 0.5
    assert min(1.0, 0.5 + Z * math.sqrt(0.25)) == found.high and found.low == pytest.approx(0.5 - Z * 0.5)


def test_formats_weigh_alike_whatever_their_number_of_questions() -> None:
    found = paired_difference(changes(("sequence", "-", [1, 0, 0, 0]), ("grid_collage", "-", [1, 1])))
    assert found.value == pytest.approx((0.25 + 1.0) / 2)
    # only the sequence questions differ from their mean: (1 / 8)^2 (0.75^2 + 3 * 0.25^2) * 6 / 5
    assert found.high - found.value == pytest.approx(Z * math.sqrt(0.75 / 64 * 6 / 5))
    nothing = paired_difference(changes(("sequence", "a", [1, -1])))
    assert (nothing.low, nothing.value, nothing.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no question"):
        paired_difference([])


def test_the_interval_covers_the_truth_19_times_in_20() -> None:
    """Pictures with 1 to 5 questions that stand and fall together, in two formats, drawn 800 times."""
    rng, hits = random.Random(0), 0
    for _ in range(800):
        drawn = []
        for number in range(150):
            shift = rng.random()
            for _ in range(rng.randint(1, 5)):
                value = int(rng.random() < 0.5 * shift) - int(rng.random() < 0.1)
                drawn.append(Change(value=value, stratum=rng.choice("ab"), cluster=str(number)))
        found = paired_difference(drawn)
        hits += found.low <= 0.25 - 0.1 <= found.high
    # three standard errors of a share of 0.95 of 800
    assert abs(hits / 800 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 800)
