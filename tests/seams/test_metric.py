"""A metric from outside the package: one class and one YAML, and every file and page follows."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from lookright.commands.infer import infer
from lookright.config.entry import CONFIG_FOLDER
from lookright.errors import ConfigError
from lookright.evaluation.comparison import compare_runs
from lookright.evaluation.paired import mcnemar
from lookright.records.records import write_jsonl
from lookright.reports.comparison import comparison_html, comparison_text
from lookright.types import Prompt, Region

MODULE = '''
from lookright.evaluation.metric import Mean, Share


class Short(Share):
    """Whether an answer has at most so many characters."""

    name = "short"
    title = "Short answers"

    def __init__(self, longest: int = 6) -> None:
        super().__init__()
        self.longest = longest

    def of(self, item):
        return len(item.answer.text) <= self.longest


class NumTokens(Mean):
    name = "num_tokens"

    def of(self, item):
        return None if item.prompt.format == "single_image" else len(item.answer.token_ids)


class Truth(Share):
    name = "correct"

    def of(self, item):
        return True
'''


@pytest.fixture()
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside the package with a module and its YAML."""
    folder = tmp_path / "outside"
    (folder / "conf" / "metrics").mkdir(parents=True)
    (folder / "metric_from_outside.py").write_text(MODULE)
    (folder / "conf" / "metrics" / "short.yaml").write_text(
        "short:\n  _target_: metric_from_outside.Short\n  longest: 6\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("metric_from_outside", None)


@pytest.fixture()
def questions(tmp_path: Path) -> Path:
    """Eight questions about two pictures in one, four about one."""
    (tmp_path / "images").mkdir()
    prompts = []
    for number in range(12):
        name, several = f"images/{number}.png", number < 8
        Image.frombytes("RGB", (40, 16), random.Random(number).randbytes(40 * 16 * 3)).save(tmp_path / name)
        width = 20 if several else 40
        prompts.append(
            Prompt(
                id=f"q{number}",
                images=[name],
                prompt="<image>\nIn Image1, what color is the shape?",
                ground_truth="red",
                format="grid_collage" if several else "single_image",
                target=0,
                regions=[Region(picture=0, box=(x, 0, x + width, 16), source=f"{x}") for x in range(0, 40, width)],
                provenance={"source": "noise", "region_answers": ["red", "blue"] if several else ["red"]},
            )
        )
    write_jsonl(tmp_path / "instructions.jsonl", prompts)
    return tmp_path / "instructions.jsonl"


def settings(weights: Path, questions: Path, output: Path, *further: str) -> list[str]:
    known = [f"backbone.path={weights}", f"data.path={questions}", f"output={output}"]
    return [*known, "decode.max_new_tokens=3", "batch_size=4", "overlays=0", *further]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").open()]


def test_a_file_in_a_search_path_is_enough(llava_weights: Path, outside: Path, questions: Path, tmp_path: Path) -> None:
    """`metrics=[default,short]` with the folder in Hydra's search path."""
    search = f"hydra.searchpath=[{outside / 'conf'}]"
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        overrides = settings(llava_weights, questions, tmp_path / "out", "metrics=[default,short]", search)
        config = compose("infer", overrides=overrides)
    assert list(config.metrics) == [
        "accuracy",
        "chance",
        "attention_ratio",
        "scaled_ratio",
        "confidence",
        "calibration",
        "errors",
        "short",
    ]
    result = infer(config)
    lines = lines_of(tmp_path / "out")
    told = [line["short"] for line in lines if line["format"] == "grid_collage"]
    assert told == [len(line["prediction"]) <= 6 for line in lines if line["format"] == "grid_collage"]
    assert result["short"]["grid_collage"]["value"] == pytest.approx(100 * sum(told) / 8)
    assert (
        result["short"]["multi_image"]["num_questions"] == 8 and result["short"]["single_image"]["num_questions"] == 4
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Short answers, %</th>" in page and "Multi-image mean short answers" in page


def test_on_the_command_line_and_in_a_comparison(
    composed: Callable[..., DictConfig], llava_weights: Path, outside: Path, questions: Path, tmp_path: Path
) -> None:
    further = ["+metrics.short={_target_: metric_from_outside.Short, longest: 4}"]
    further += ["+metrics.tokens={_target_: metric_from_outside.NumTokens}"]
    for name, decode in (("base", "decode=greedy"), ("hot", "decode=sample")):
        overrides = settings(llava_weights, questions, tmp_path / name, *further, decode)
        result = infer(composed("infer", *overrides))
        assert set(result["num_tokens"]) == {"grid_collage", "multi_image"}
    runs = {name: tmp_path / name for name in ("base", "hot")}
    found = compare_runs(runs, "base", trusted=["metric_from_outside"])
    base, hot = ([line["short"] for line in lines_of(folder)][:8] for folder in runs.values())
    group = found.groups["grid_collage"]
    assert group.answers["hot"].counts["short"] == sum(hot)
    assert group.answers["hot"].estimates["short"].value == pytest.approx(100 * sum(hot) / 8)
    change = group.differences["short"]["hot"]
    gained = sum(after and not before for before, after in zip(base, hot, strict=True))
    lost = sum(before and not after for before, after in zip(base, hot, strict=True))
    assert (change.gained, change.lost, change.p_value) == (gained, lost, mcnemar(gained, lost))
    tokens = [line["num_tokens"] for line in lines_of(runs["hot"])][:8]
    assert group.answers["hot"].estimates["num_tokens"].value == pytest.approx(sum(tokens) / 8)
    assert found.groups["single_image"].answers["hot"].estimates["num_tokens"] is None
    # what the demo writes, prints and shows
    assert found.result()["groups"]["grid_collage"]["answers"]["hot"]["num_short"] == sum(hot)
    assert "short answers" in comparison_text(found) and "num tokens" in comparison_text(found)
    page = comparison_html(found)
    assert (
        "<h2>Short answers</h2>" in page
        and "Short answers: difference to base" in page
        and "<h2>Num tokens</h2>" in page
    )


def test_a_run_without_the_metric_still_compares(
    composed: Callable[..., DictConfig], llava_weights: Path, outside: Path, questions: Path, tmp_path: Path
) -> None:
    infer(composed("infer", *settings(llava_weights, questions, tmp_path / "old")))
    short = "+metrics.short={_target_: metric_from_outside.Short}"
    infer(composed("infer", *settings(llava_weights, questions, tmp_path / "new", short)))
    found = compare_runs({"old": tmp_path / "old", "new": tmp_path / "new"}, trusted=["metric_from_outside"])
    group = found.groups["grid_collage"]
    assert group.answers["old"].estimates["short"] is None and group.differences["short"] == {}
    assert group.answers["new"].estimates["short"] is not None
    assert "Short answers" in comparison_html(found) and "short answers" in comparison_text(found)


def test_metrics_may_be_taken_away(
    composed: Callable[..., DictConfig], llava_weights: Path, questions: Path, tmp_path: Path
) -> None:
    alone = ["metrics.errors=null", "metrics.chance=null", "~metrics.confidence", "metrics.scaled_ratio=null"]
    result = infer(composed("infer", *settings(llava_weights, questions, tmp_path / "out", *alone)))
    assert set(result) == {
        "accuracy",
        "accuracy_by_num_images",
        "accuracy_by_format_and_num_images",
        "attention_ratio",
        "calibration",
        "dropped",
    }
    assert "chance" not in result["accuracy"]["multi_image"]
    assert not {"chance", "error_kind"} & lines_of(tmp_path / "out")[0].keys()
    found = compare_runs({"a": tmp_path / "out", "b": tmp_path / "out"})
    assert "Kinds of errors" not in comparison_html(found) and comparison_text(found).startswith("accuracy, %")
    with pytest.raises(ConfigError, match=r"output=.* holds predictions of another config \(metrics differ\)"):
        infer(composed("infer", *settings(llava_weights, questions, tmp_path / "out")))


def test_what_is_wrong_with_a_metric_is_told(
    composed: Callable[..., DictConfig], llava_weights: Path, outside: Path, questions: Path, tmp_path: Path
) -> None:
    def run(*overrides: str) -> None:
        infer(composed("infer", *settings(llava_weights, questions, tmp_path / "out", *overrides)))

    with pytest.raises(ConfigError, match=r"metrics\.short\.longst does not exist; did you mean longest"):
        run("+metrics.short={_target_: metric_from_outside.Short, longst: 4}")
    with pytest.raises(ConfigError, match=r"metrics\.short\._target_=metric_from_outside\.Shrt cannot be imported"):
        run("+metrics.short={_target_: metric_from_outside.Shrt}")
    with pytest.raises(ConfigError, match=r"metrics\.short\._target_=pathlib\.Path is no .*Metric"):
        run("+metrics.short={_target_: pathlib.Path}")
    with pytest.raises(ConfigError, match=r"metrics\.mine writes 'correct', which predictions.jsonl holds already"):
        run("+metrics.mine={_target_: metric_from_outside.Truth}")
