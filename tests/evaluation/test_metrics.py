"""Accuracies, intervals and kinds of errors as they are reported."""

import json
import math

import pytest

from lookright.evaluation.intervals import RunningMean, mean_of_proportions, wilson
from lookright.evaluation.metric import Metrics
from lookright.evaluation.predictions import default_metrics


def test_wilson_by_hand() -> None:
    # 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10), z^2 = 3.8414588 -> 0.716740; half 0.226563
    found = wilson(8, 10)
    assert (found.value, found.count) == (0.8, 10)
    assert found.low == pytest.approx(0.490162, abs=1e-6)
    assert found.high == pytest.approx(0.943318, abs=1e-6)


def test_wilson_solves_its_own_equation() -> None:
    # An end p is where |share - p| is z standard errors of p.
    for successes, count in ((1, 7), (30, 400), (399, 400)):
        found = wilson(successes, count)
        for end in (found.low, found.high):
            standard_error = math.sqrt(end * (1 - end) / count)
            assert abs(found.value - end) / standard_error == pytest.approx(1.959963984540054, rel=1e-9)


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (5, 5), (0, 1), (1, 1)])
def test_wilson_at_the_ends(successes: int, count: int) -> None:
    found = wilson(successes, count)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.3


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_no_proportion(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, count)


def test_mean_of_proportions() -> None:
    single = wilson(8, 10)
    assert mean_of_proportions([single]).low == pytest.approx(single.low, abs=1e-12)
    # Large samples: the normal approximation, sqrt(sum p (1 - p) / n) / 3.
    parts = [wilson(round(share * 40_000), 40_000) for share in (0.5, 0.7, 0.9)]
    found = mean_of_proportions(parts)
    half = 1.959963984540054 * math.sqrt((0.25 + 0.21 + 0.09) / 40_000) / 3
    assert found.value == pytest.approx(0.7, abs=1e-12)
    assert found.count == 120_000
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)  # the score interval leans to one half
    # All right: no width above, some below, and nothing past 1.
    perfect = mean_of_proportions([wilson(9, 9)] * 3)
    assert perfect.high == perfect.value == 1.0 and 0.6 < perfect.low < 0.9


def test_running_mean() -> None:
    values = [0.2, 0.4, 0.9, 0.1]
    running = RunningMean()
    for value in values:
        running.add(value)
    found = running.estimate()
    variance = sum((value - 0.4) ** 2 for value in values) / 3
    assert found.value == pytest.approx(0.4, abs=1e-12)
    assert found.high - found.value == pytest.approx(1.959963984540054 * math.sqrt(variance / 4), rel=1e-12)
    one = RunningMean()
    one.add(0.3)
    assert (one.estimate().low, one.estimate().high) == (0.3, 0.3)
    with pytest.raises(ValueError, match="no observation"):
        RunningMean().estimate()


def add(metrics: Metrics, format_name: str | None, num_images: int, correct: bool, **known: object) -> None:
    """Take a line of predictions.jsonl in; what is not named is not known."""
    unknown = {"attention_ratio": None, "even_ratio": None, "confidence": None, "error_kind": None, "chance": None}
    said = "red" if correct else "blue"
    line = {"format": format_name, "num_images": num_images, "correct": correct, "ground_truth": "red"}
    metrics.add(unknown | line | {"prediction": said} | known)


def filled() -> Metrics:
    metrics = default_metrics()
    for _ in range(3):
        add(metrics, format_name="sequence", num_images=2, correct=True, attention_ratio=0.8, even_ratio=0.5)
    add(
        metrics,
        format_name="sequence",
        num_images=3,
        correct=False,
        attention_ratio=0.2,
        error_kind="sequence_confusion",
    )
    add(metrics, format_name="grid_collage", num_images=3, correct=True, attention_ratio=0.5)
    add(metrics, format_name="pic_in_pic", num_images=2, correct=False, attention_ratio=0.4, error_kind="other")
    add(metrics, format_name="pic_in_pic", num_images=2, correct=False, attention_ratio=0.4)
    add(metrics, format_name=None, num_images=1, correct=True, attention_ratio=1.0)
    add(metrics, format_name="single_image", num_images=1, correct=False, error_kind=None)
    return metrics


def test_accuracies_in_percent() -> None:
    found = filled().result()
    accuracy = found["accuracy"]
    assert list(accuracy) == ["sequence", "grid_collage", "pic_in_pic", "single_image", "multi_image"]
    assert [accuracy[name]["value"] for name in accuracy] == pytest.approx([75, 100, 0, 50, 175 / 3])
    assert [accuracy[name]["num_questions"] for name in accuracy] == [4, 1, 2, 2, 7]
    assert accuracy["multi_image"]["low"] < 175 / 3 < accuracy["multi_image"]["high"]
    assert {key: entry["value"] for key, entry in found["accuracy_by_num_images"].items()} == pytest.approx(
        {"1": 50, "2": 60, "3": 50}
    )
    cells = found["accuracy_by_format_and_num_images"]
    assert cells["sequence"]["2"]["value"] == 100 and cells["sequence"]["3"]["value"] == 0
    assert "1" not in cells["sequence"]


def test_ratios_and_errors() -> None:
    found = filled().result()
    assert found["attention_ratio"]["sequence"]["value"] == pytest.approx(0.65)
    assert found["attention_ratio"]["sequence"]["even"] == pytest.approx(0.5)
    assert found["attention_ratio"]["grid_collage"]["even"] is None
    assert found["attention_ratio"]["multi_image"]["value"] == pytest.approx(3.9 / 7)
    assert found["attention_ratio"]["single_image"]["num_questions"] == 1
    errors = found["errors"]
    assert errors["sequence"]["sequence_confusion"]["value"] == 100
    assert (errors["multi_image"]["num_wrong"], errors["multi_image"]["num_judged"]) == (3, 2)
    assert errors["multi_image"]["other"]["value"] == 50
    assert errors["single_image"] == {"num_wrong": 1, "num_judged": 0, "num_wrong_kind": 0}


def test_chance_level_by_hand() -> None:
    """Means of the formats weigh alike; where a question's chance is not known there is none."""
    metrics = default_metrics()
    for chance in (1 / 2, 1 / 4):
        add(metrics, format_name="sequence", num_images=2, correct=True, chance=chance)
    add(metrics, format_name="grid_collage", num_images=9, correct=False, chance=1 / 8, prediction="yes")
    add(metrics, format_name=None, num_images=1, correct=True)
    found = metrics.result()
    chances = {name: entry["chance"] for name, entry in found["accuracy"].items()}
    assert chances == {"sequence": 37.5, "grid_collage": 12.5, "single_image": None, "multi_image": 25.0}
    assert found["errors"]["grid_collage"]["num_wrong_kind"] == found["errors"]["multi_image"]["num_wrong_kind"] == 1
    add(metrics, format_name="sequence", num_images=3, correct=True)
    accuracy = metrics.result()["accuracy"]
    assert accuracy["sequence"]["chance"] is accuracy["multi_image"]["chance"] is None


def test_plain_json_and_nothing_from_nothing() -> None:
    json.dumps(filled().result(), allow_nan=False)
    assert default_metrics().result()["accuracy"] == {}
