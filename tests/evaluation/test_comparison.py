"""Runs on the same questions, counted by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lookright.config.made_by import MadeBy
from lookright.errors import ConfigError
from lookright.evaluation.comparison import compare_runs
from lookright.evaluation.error_kinds import wrong_kind
from lookright.evaluation.intervals import wilson


def line(number: int, prediction: str, **facts: Any) -> dict[str, Any]:
    """The truth is red; another shown image is blue."""
    known = {
        "id": f"q{number}",
        "format": "sequence",
        "num_images": 2,
        "source": "shapes",
        "source_picture": f"p{number}",
        "ground_truth": "red",
        "chance": 0.5,
        "attention_ratio": 0.6,
        "even_ratio": 0.5,
    } | facts
    return known | {
        "prediction": prediction,
        "correct": prediction == known["ground_truth"],
        "error_kind": {"blue": "sequence_confusion", known["ground_truth"]: None}.get(prediction, "other"),
    }


def write_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


COLLAGE = {"format": "grid_collage", "num_images": 4, "chance": 0.25, "source": "clothes"}
SINGLE = {"format": "single_image", "num_images": 1, "chance": None}
FACTS: list[Mapping[str, Any]] = [{}, {}, {}, {}, COLLAGE, COLLAGE, SINGLE]
BASE = ["red", "blue", "blue", "yes", "no", "blue", "red"]
TUNED = ["blue", "red", "red", "red", "red", "green", "red"]


@pytest.fixture()
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three runs on seven questions; the third's lines are in another order."""
    runs = {}
    for name, said in (("base", BASE), ("tuned", TUNED), ("copy", TUNED)):
        lines = [line(number, text, **FACTS[number]) for number, text in enumerate(said)]
        runs[name] = write_run(tmp_path / name, lines[::-1] if name == "copy" else lines)
    MadeBy(command="x", model="m", adapter=None, data="d", decoding=None, code="1", date="now").write(runs["base"])
    return runs


def test_counts_by_hand(folders: dict[str, Path]) -> None:
    found = compare_runs(folders, against="base")
    assert list(found.groups) == ["sequence", "grid_collage", "single_image", "multi_image"]
    sequence = found.groups["sequence"]
    assert (sequence.num_questions, sequence.chance) == (4, 50.0)
    base, tuned = sequence.answers["base"], sequence.answers["tuned"]
    assert (base.accuracy.value, tuned.accuracy.value) == (25.0, 75.0)
    assert base.accuracy.low == pytest.approx(100 * wilson(1, 4).low)
    assert (base.num_wrong, base.num_other_image, base.num_wrong_kind) == (3, 2, 1)
    assert (tuned.num_wrong, tuned.num_other_image, tuned.num_wrong_kind) == (1, 1, 0)
    assert base.other_image.value == 50.0 and base.wrong_kind.value == 25.0
    assert base.attention_ratio.value == pytest.approx(0.6) and base.even_ratio == 0.5
    change = sequence.accuracy["tuned"]
    # 3 gained, 1 lost: 2 (1 + 4) / 16
    assert (change.gained, change.lost, change.p_value, change.points.value) == (3, 1, 10 / 16, 50.0)
    confused = sequence.other_image["tuned"]
    assert (confused.gained, confused.lost, confused.points.value) == (1, 2, -25.0)


def test_the_mean_of_formats(folders: dict[str, Path]) -> None:
    mean = compare_runs(folders, against="base").groups["multi_image"]
    assert mean.num_questions == 6 and mean.chance == pytest.approx((50 + 25) / 2)
    assert mean.answers["base"].accuracy.value == pytest.approx(25 / 2)
    assert mean.answers["tuned"].accuracy.value == pytest.approx((75 + 50) / 2)
    # the test counts questions, the difference weighs formats alike
    change = mean.accuracy["tuned"]
    assert (change.gained, change.lost) == (4, 1) and change.points.value == pytest.approx(50.0)
    assert mean.answers["base"].num_wrong_kind == 2


def test_order_of_lines_and_the_run_compared_with_do_not_matter(folders: dict[str, Path]) -> None:
    found = compare_runs(folders, against="tuned")
    assert found.against == "tuned" and set(found.groups["sequence"].accuracy) == {"base", "copy"}
    same = found.groups["multi_image"].accuracy["copy"]
    assert (same.gained, same.lost, same.p_value, same.points.value) == (0, 0, 1.0, 0.0)
    back, forth = found.groups["multi_image"], compare_runs(folders).groups["multi_image"]
    assert back.accuracy["base"].p_value == forth.accuracy["tuned"].p_value
    assert back.accuracy["base"].points.low == pytest.approx(-forth.accuracy["tuned"].points.high)


def test_each_source_by_itself(folders: dict[str, Path]) -> None:
    sources = compare_runs(folders).sources
    assert list(sources) == ["clothes", "shapes"]
    assert sources["clothes"]["multi_image"].answers["tuned"].accuracy.value == 50.0
    assert sources["clothes"]["multi_image"].num_questions == 2
    assert set(sources["shapes"]) == {"sequence", "single_image", "multi_image"}


def test_what_made_the_runs_and_plain_json(folders: dict[str, Path]) -> None:
    found = compare_runs(folders)
    assert found.made_by["base"].model == "m" and found.made_by["tuned"] is None
    json.dumps(found.result(), allow_nan=False)


def test_predictions_of_earlier_versions(tmp_path: Path) -> None:
    """Without source, picture and chance, the ground truth named `answer`: what is not known is left out."""
    known = line(0, "blue") | {"answer": "red"}
    old = [{k: v for k, v in known.items() if k not in ("source", "source_picture", "chance", "ground_truth")}]
    found = compare_runs({name: write_run(tmp_path / name, old) for name in ("a", "b")})
    assert found.sources == {} and found.groups["sequence"].chance is None


def test_runs_that_do_not_compare(folders: dict[str, Path], tmp_path: Path) -> None:
    some = [line(number, "red", **FACTS[number]) for number in range(6)]
    fewer = write_run(tmp_path / "fewer", some)
    with pytest.raises(
        ConfigError, match=r"runs base and fewer answered 7 and 6 questions, and 1 are in one alone \(q6"
    ):
        compare_runs({"base": folders["base"], "fewer": fewer})
    other = write_run(tmp_path / "other", [*some, line(6, "blue", **SINGLE, ground_truth="blue")])
    with pytest.raises(ConfigError, match="another ground truth or format for question q6"):
        compare_runs({"base": folders["base"], "other": other})
    with pytest.raises(ConfigError, match="against=best, runs=base, tuned"):
        compare_runs({"base": folders["base"], "tuned": folders["tuned"]}, against="best")
    with pytest.raises(ConfigError, match="name two runs or more"):
        compare_runs({"base": folders["base"]})
    with pytest.raises(ConfigError, match="nowhere holds no predictions.jsonl"):
        compare_runs({"base": folders["base"], "x": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("prediction", "answer", "wanted"),
    [
        ("Yes", "red", True),
        ("no, it is blue", "red", True),
        ("yes", "no", False),
        ("red", "yes", False),
        ("blue", "red", False),
        ("", "red", False),
    ],
)
def test_yes_or_no_to_another_question(prediction: str, answer: str, wanted: bool) -> None:
    assert wrong_kind(prediction, answer) == wanted
