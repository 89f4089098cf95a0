"""Paired tests and intervals: against SciPy, by hand, and against what is drawn again and again."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, sem, t

from lookright.evaluation.intervals import mean_of_few, student_quantile
from lookright.evaluation.paired import (
    Bootstrap,
    Change,
    bootstrap_difference,
    design_effect,
    mcnemar,
    paired_difference,
    questions_for_a_point,
)

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


def test_independent_questions_have_the_published_interval() -> None:
    """Agresti and Min, 2005: 3.5 gained and 1.5 lost of 10 (8 questions and half a one of each outcome)."""
    found = paired_difference(changes(("sequence", "-", [1, 1, 1, 0, 0, 0, 0, -1])))
    centre, variance = (3.5 - 1.5) / 10, (3.5 + 1.5 - (3.5 - 1.5) ** 2 / 10) / 10**2
    assert found.value == pytest.approx(0.25) and found.count == 8
    assert found.low == pytest.approx(centre - Z * math.sqrt(variance), rel=1e-12)
    assert found.high == pytest.approx(centre + Z * math.sqrt(variance), rel=1e-12)


def test_where_nothing_changed_the_interval_has_a_width() -> None:
    """Half a question each way of 42: 1 / 42 is the standard error."""
    found = paired_difference(changes(("sequence", "-", [0] * 40)))
    assert (found.value, found.low, found.high) == pytest.approx((0.0, -Z / 42, Z / 42))
    every = paired_difference(changes(("sequence", "-", [1] * 5)))
    assert every.value == every.high == 1.0 and every.low < 0.7


def test_questions_about_one_picture_by_hand() -> None:
    """Two pictures, asked twice each with the same outcome: two observations of 2 residuals each."""
    found = paired_difference(changes(("sequence", "a", [1, 1]), ("sequence", "b", [0, 0])))
    centre = 2 / 6
    squares = (
        (2 * (1 - centre)) ** 2 + (2 * centre) ** 2 + 0.5 * ((1 - centre) ** 2 + (1 + centre) ** 2 + 2 * centre**2)
    )
    assert found.value == 0.5
    assert found.low == pytest.approx(centre - Z * math.sqrt(squares) / 6)
    alone = paired_difference(changes(("sequence", "-", [1, 1, 0, 0])))
    assert alone.low > found.low


def test_formats_weigh_alike_whatever_their_number_of_questions() -> None:
    found = paired_difference(changes(("sequence", "-", [1, 0, 0, 0]), ("grid_collage", "-", [1, 1])))
    assert found.value == pytest.approx((0.25 + 1.0) / 2)
    parts = [paired_difference(changes(("a", "-", values))) for values in ([1, 0, 0, 0], [1, 1])]
    centres = (1 / 6, 2 / 4)
    variances = [((centre - part.low) / Z) ** 2 for centre, part in zip(centres, parts, strict=True)]
    assert sum(centres) / 2 - found.low == pytest.approx(Z * math.sqrt(sum(variances)) / 2)
    with pytest.raises(ValueError, match="no question"):
        paired_difference([])


def test_the_interval_covers_the_truth_19_times_in_20() -> None:
    """Pictures with 1 to 5 questions that change alike, in two formats, drawn 800 times; by questions it would not."""
    rng, hits, by_question = random.Random(0), 0, 0
    for _ in range(800):
        drawn = []
        for number in range(150):
            value = int(rng.random() < 0.25) - int(rng.random() < 0.1)
            for _ in range(rng.randint(1, 5)):
                drawn.append(Change(value=value, stratum=rng.choice("ab"), cluster=str(number)))
        found = paired_difference(drawn)
        hits += found.low <= 0.25 - 0.1 <= found.high
        alone = paired_difference(replace(change, cluster=str(place)) for place, change in enumerate(drawn))
        by_question += alone.low <= 0.25 - 0.1 <= alone.high
    # three standard errors of a share of 0.95 of 800
    assert abs(hits / 800 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 800)
    assert by_question / 800 < 0.85


@pytest.mark.parametrize("values", [[1.0, 2.0], [52.0, 50.0, 54.0], [0.1, 0.1, 0.1], list(range(30)), list(range(102))])
def test_mean_of_few_is_scipys_t_interval(values: list[float]) -> None:
    found = mean_of_few(values)
    wanted = t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=sem(values)) if len(set(values)) > 1 else None
    assert (found.low, found.high) == pytest.approx(wanted or (values[0], values[0]), rel=1e-12)
    assert (found.value, found.count) == (pytest.approx(np.mean(values)), len(values))


def test_a_single_observation_has_no_interval() -> None:
    with pytest.raises(ValueError, match="1 observations have no interval"):
        mean_of_few([3.0])


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 100, 1001])
@pytest.mark.parametrize("inside", [0.5, 0.95, 0.999])
def test_students_quantile_is_scipys(freedom: int, inside: float) -> None:
    assert student_quantile(freedom, inside) == pytest.approx(t.ppf((1 + inside) / 2, freedom), rel=1e-10)


def clustered(num_pictures: int, seed: int) -> list[Change]:
    """Two formats; questions about one picture tend to change together."""
    rng = random.Random(seed)
    return [
        Change(
            value=shared if rng.random() < 0.7 else rng.choice([-1, 0, 0, 1]), stratum=stratum, cluster=f"p{picture}"
        )
        for picture in range(num_pictures)
        for shared in [rng.choice([-1, 0, 0, 1, 1])]
        for stratum in rng.choices(["sequence", "grid_collage"], [2, 1], k=rng.randrange(1, 5))
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_bootstrap_is_what_drawing_questions_of_pictures_gives(seed: int) -> None:
    """Slowly: pictures are drawn by name, their questions put in lists, means taken of each format."""
    found = clustered(12, seed)
    pictures = sorted({change.cluster for change in found})
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(300):
        drawn = [change for place in rng.integers(len(pictures), size=len(pictures)) for change in found
                 if change.cluster == pictures[place]]  # fmt: skip
        formats = {change.stratum for change in drawn}
        means.append(
            np.mean([np.mean([one.value for one in drawn if one.stratum == name]) for name in sorted(formats)])
        )
    fast = bootstrap_difference(found, Bootstrap(num_draws=300, seed=seed))
    assert fast.value == pytest.approx(paired_difference(found).value, abs=1e-12)
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert fast == bootstrap_difference(found[::-1], Bootstrap(num_draws=300, seed=seed))
    assert fast != bootstrap_difference(found, Bootstrap(num_draws=300, seed=seed + 7))


def test_bootstrap_agrees_with_the_formula() -> None:
    """Both intervals are of one mean; clusters make both wider than questions alone would."""
    found = clustered(300, 3)
    alone = [replace(change, cluster=f"{place}") for place, change in enumerate(found)]
    for changes_ in (found, alone):
        drawn, formula = bootstrap_difference(changes_, Bootstrap(num_draws=2000)), paired_difference(changes_)
        assert drawn.high - drawn.low == pytest.approx(formula.high - formula.low, rel=0.06)
    wide, narrow = (bootstrap_difference(one, Bootstrap(num_draws=2000)) for one in (found, alone))
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_design_effect_by_hand() -> None:
    """Pictures asked twice with equal changes count as one question each: twice the variance."""
    pairs = [Change(value=value, stratum="s", cluster=f"{place}") for place, value in enumerate([1, -1, 0, 1])]
    assert design_effect(pairs) == 1.0 and design_effect([*pairs, *pairs]) == pytest.approx(2.0)
    assert design_effect([Change(value=0, stratum="s", cluster="p")] * 3) == 1.0


def test_questions_for_a_point() -> None:
    """By the interval itself: at that number a difference of one point is just outside, at one less it is not."""
    number = questions_for_a_point(0.2)
    assert number == math.ceil(3.841458820694124 / 1e-4 * (0.2 - 1e-4)) == 7680

    def low(count: int) -> float:
        return 0.01 - Z * math.sqrt((0.2 - 0.01**2) / count)

    assert low(number) >= 0 > low(number - 1)
    assert questions_for_a_point(0.2, 1.5) == math.ceil(1.5 * 3.841458820694124 / 1e-4 * (0.2 - 1e-4))
    assert questions_for_a_point(0.0) == questions_for_a_point(0.01) and questions_for_a_point(0.2, points=2) < 1921
