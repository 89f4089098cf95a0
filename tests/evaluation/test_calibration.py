"""Calibration against its formulas, told again question by question."""

import itertools
import random

import numpy as np
import pytest

from lookright.evaluation.calibration import (
    Calibration,
    auroc,
    brier_score,
    equal_mass_bins,
    expected_calibration_error,
    risk_coverage,
)
from lookright.evaluation.metric import Metrics
from lookright.reports.inference import inference_html


def drawn(count: int, seed: int, digits: int = 9) -> tuple[list[float], list[bool]]:
    """Right answers are surer; few digits give ties."""
    rng = random.Random(seed)
    confidences = [round(rng.random(), digits) for _ in range(count)]
    return confidences, [rng.random() < confidence**2 for confidence in confidences]


def test_bins_by_hand() -> None:
    bins = equal_mass_bins([0.9, 0.1, 0.2, 0.8], [True, False, True, True], num_bins=2)
    assert [(one.low, one.high, one.accuracy, one.num_questions) for one in bins] == [
        (0.1, 0.2, 0.5, 2),
        (0.8, 0.9, 1, 2),
    ]
    # (|0.5 - 0.15| + |1 - 0.85|) / 2
    assert expected_calibration_error(bins) == pytest.approx(0.25)
    same = equal_mass_bins([0.5] * 7, [True] * 3 + [False] * 4, num_bins=10)
    assert len(same) == 1 and expected_calibration_error(same) == pytest.approx(0.5 - 3 / 7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ece_without_ties_is_that_of_equal_parts(seed: int) -> None:
    confidences, right = drawn(100, seed)
    order = np.argsort(confidences)
    parts = np.array_split(order, 10)
    wanted = sum(
        len(part) / 100 * abs(np.mean([right[i] for i in part]) - np.mean([confidences[i] for i in part]))
        for part in parts
    )
    bins = equal_mass_bins(confidences, right)
    assert [one.num_questions for one in bins] == [10] * 10
    assert expected_calibration_error(bins) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("seed", "digits"), [(0, 9), (1, 1), (2, 1)])
def test_order_of_questions_does_not_matter(seed: int, digits: int) -> None:
    confidences, right = drawn(60, seed, digits)
    places = random.Random(seed).sample(range(60), 60)
    shuffled = [confidences[place] for place in places], [right[place] for place in places]
    one, other = equal_mass_bins(confidences, right), equal_mass_bins(*shuffled)
    assert [part.num_questions for part in one] == [part.num_questions for part in other]
    assert expected_calibration_error(one) == pytest.approx(expected_calibration_error(other), abs=1e-12)
    assert risk_coverage(confidences, right) == pytest.approx(risk_coverage(*shuffled), abs=1e-12)


@pytest.mark.parametrize(("seed", "digits"), [(0, 9), (1, 1), (2, 1)])
def test_brier_and_auroc_pair_by_pair(seed: int, digits: int) -> None:
    confidences, right = drawn(40, seed, digits)
    assert brier_score(confidences, right) == pytest.approx(
        sum((c - (1 if r else 0)) ** 2 for c, r in zip(confidences, right, strict=True)) / 40
    )
    surer = [c for c, r in zip(confidences, right, strict=True) if r]
    wrong = [c for c, r in zip(confidences, right, strict=True) if not r]
    wins = sum((a > b) + 0.5 * (a == b) for a in surer for b in wrong)
    assert auroc(confidences, right) == pytest.approx(wins / (len(surer) * len(wrong)))
    assert auroc([0.1, 0.2], [True, True]) is None


def test_risk_coverage_is_the_mean_of_all_orders_of_ties() -> None:
    confidences, right = [0.9, 0.9, 0.9, 0.4, 0.7], [True, False, True, False, True]
    curves = []
    for order in itertools.permutations(range(5)):
        if all(confidences[a] >= confidences[b] for a, b in itertools.pairwise(order)):
            curves.append([sum(not right[i] for i in order[: k + 1]) / (k + 1) for k in range(5)])
    assert len(curves) == 6
    assert risk_coverage(confidences, right) == pytest.approx(np.mean(curves, axis=0))


def test_metric_and_its_page() -> None:
    confidences, right = drawn(50, 4)
    metrics = Metrics(parts={"calibration": Calibration(num_bins=5)})
    for place, (confidence, is_right) in enumerate(zip(confidences, right, strict=True)):
        name = "sequence" if place < 30 else "single_image"
        metrics.add({"format": name, "num_images": 2, "correct": is_right, "confidence": confidence})
    metrics.add({"format": "sequence", "num_images": 2, "correct": True, "confidence": None})
    found = metrics.result()["calibration"]
    assert list(found) == ["sequence", "single_image", "multi_image"] and found["sequence"] == found["multi_image"]
    assert found["sequence"]["num_questions"] == 30 and len(found["sequence"]["bins"]) == 5
    assert found["single_image"]["brier"] == pytest.approx(brier_score(confidences[30:], right[30:]))
    assert found["sequence"]["aurc"] == pytest.approx(float(np.mean(risk_coverage(confidences[:30], right[:30]))))
    page = inference_html(metrics.result(), metrics)
    assert "Calibration of the confidence" in page and "Accuracy by confidence" in page
    assert f"{found['sequence']['ece']:.3f}" in page and page.count("<circle") >= 5
