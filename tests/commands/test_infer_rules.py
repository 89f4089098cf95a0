"""`infer.py` with rules by file and a judge: what is told, what is refused before weights load, what goes on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.infer import infer
from lookright.errors import ConfigError, LookRightError
from lookright.evaluation.comparison import compare_runs
from lookright.records.records import write_jsonl
from tests.commands.test_infer import predictions, question
from tests.evaluation.judge_server import Answered, JudgeServer, said

Compose = Callable[..., DictConfig]
JUDGED = "metrics=[default,judge]"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four questions with options in a file of their own, four without."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    several = [question(folder, number) for number in range(8)]
    options = [replace(one, prompt=f"{one.prompt}\nA. red\nB. blue") for one in several[:4]]
    write_jsonl(folder / "letters.jsonl", options)
    write_jsonl(folder / "words.jsonl", several[4:])
    return folder / "letters.jsonl", folder / "words.jsonl"


@pytest.fixture()
def settings(files: tuple[Path, Path], llava_weights: Path, tmp_path: Path) -> list[str]:
    paths = ",".join(map(str, files))
    return [
        f"data.path=[{paths}]",
        f"backbone.path={llava_weights}",
        "decode.max_new_tokens=3",
        "overlays=0",
        f"output={tmp_path / 'out'}",
    ]


def test_rules_by_file(
    composed: Compose, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = infer(composed("infer", *settings, "metrics.accuracy.rules={letters: choice}"))
    rules = {line["id"]: line["rule"] for line in predictions(tmp_path / "out")}
    assert set(rules.values()) == {"choice", "contained"} and sum(rule == "choice" for rule in rules.values()) == 4
    entry = result["accuracy"]["multi_image"]
    unparsed = sum(bool(line.get("unparsed")) for line in predictions(tmp_path / "out") if line["num_images"] > 1)
    assert entry["rule"] == "choice, contained" and entry["num_unparsed"] == unparsed
    assert "accuracy (choice, contained): " in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "choice, contained" in page and "Right by the rule contained; choice in letters." in page


def test_a_name_that_no_question_has(composed: Compose, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match="metrics.accuracy.rules.lettres: no question is of such a file or source"):
        infer(composed("infer", *settings, "metrics.accuracy.rules={lettres: choice}"))
    with pytest.raises(ConfigError, match="metrics.accuracy.rule='letter'; valid: contained"):
        infer(composed("infer", *settings, "metrics.accuracy.rule=letter"))
    with pytest.raises(ConfigError, match="metrics.judge.url is not set"):
        infer(composed("infer", *settings, JUDGED, "metrics.judge.model=m"))


def test_a_judge_decides_and_a_broken_run_goes_on(composed: Compose, settings: list[str], tmp_path: Path) -> None:
    def script(request: dict[str, Any], seen: int) -> Answered:
        del seen
        text = request["messages"][0]["content"]
        return said("Score: 5" if "A. red" in text else "Score: 2")

    with JudgeServer(lambda request, seen: said("yes") if len(server.requests) == 1 else Answered(500)) as server:
        given = [*settings, JUDGED, f"metrics.judge.url={server.url}", "metrics.judge.model=m"]
        given += ["metrics.judge.backoff=0.01", "metrics.judge.retries=1", "metrics.accuracy.rule=judge"]
        with pytest.raises(LookRightError, match="status 500"):
            infer(composed("infer", *given))
        assert all(line["correct"] is None for line in predictions(tmp_path / "out"))
        server.script = script
        result = infer(composed("infer", *given))
    entry = result["accuracy"]["multi_image"]
    assert entry["rule"] == "judge" and result["judge"]["num_unparsed"] == 0
    by_format = [entry["value"] for name, entry in result["accuracy"].items() if name != "multi_image"]
    # one question of each format has options, and one has none
    assert by_format == [50.0] * 4 and result["judge_score"]["single_image"]["value"] == 3.5
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Judge, 1 to 5" in page and result["judge"]["rubric_sha256"] in page
    runs = {name: tmp_path / "out" for name in ("a", "b")}
    compared = compare_runs(runs)
    assert compared.groups["multi_image"].answers["a"].estimates["judge_score"].value == 3.5
    assert compared.groups["multi_image"].answers["a"].accuracy.value == 50


def test_a_judge_that_is_not_there_ends_before_weights_load(
    composed: Compose, settings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    given = ["metrics.judge.url=http://127.0.0.1:9/v1", "metrics.judge.model=m", "metrics.judge.backoff=0.01"]
    with pytest.raises(ConfigError, match="judge m at http://127.0.0.1:9/v1: cannot be reached"):
        infer(composed("infer", *settings, JUDGED, *given))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("predictions*"))
