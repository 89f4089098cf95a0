"""`train.py eval=`: the tuned model is measured in the same job, as `infer.py` would, also after a kill."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.commands import train as training
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.errors import ConfigError
from lookright.evaluation.comparison import compare_runs
from lookright.launching.jobs import GO_ON, Job
from lookright.launching.plugin import _done
from lookright.records.records import write_jsonl
from tests.commands.test_infer import predictions, question
from tests.commands.test_train import forbid_weights

Compose = Callable[..., DictConfig]
NUM_QUESTIONS = 9


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(NUM_QUESTIONS)])
    return folder / "instructions.jsonl"


@pytest.fixture(scope="module")
def settings(small_run: list[str], questions_file: Path) -> list[str]:
    """Two steps and nine questions."""
    own = ["trainer.max_steps=2", "eval=test_sets", f"eval.data.path={questions_file}"]
    return [*small_run, *own, "eval.decode.max_new_tokens=3", "eval.batch_size=4", "eval.overlays=1"]


@pytest.fixture(scope="module")
def finished(composed: Compose, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(composed("train", *settings, f"output={folder}"))
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_it_answers_as_infer_does(finished: Path, composed: Compose, questions_file: Path, tmp_path: Path) -> None:
    own = predictions(finished / "eval")
    given = [f"run={finished}", f"data.path={questions_file}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
    result = infer(composed("infer", "~backbone", *given, f"output={tmp_path}"))
    for line, other in zip(own, predictions(tmp_path), strict=True):
        assert (line["id"], line["prediction"], line["correct"]) == (other["id"], other["prediction"], other["correct"])
        # adapters add in one product while they train, and in three steps here
        assert line["attention_ratio"] == pytest.approx(other["attention_ratio"], abs=1e-5)
    assert json.loads((finished / "eval" / "metrics.json").read_text())["accuracy"] == result["accuracy"]
    assert (finished / "eval" / "report.html").is_file()
    # it is a folder of infer.py to all that read those
    compared = compare_runs({"own": finished / "eval", "infer": tmp_path})
    assert compared.groups["multi_image"].accuracy["infer"].points.value == 0


def test_main_numbers_and_objective_are_in_the_summary(finished: Path) -> None:
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    summary = summary_of(finished)
    assert summary["eval"]["accuracy/multi_image"] == metrics["accuracy"]["multi_image"]["value"]
    assert summary["eval"]["attention_ratio/sequence"] == metrics["attention_ratio"]["sequence"]["value"]
    assert summary["objective"] == {"name": "accuracy/multi_image", "value": summary["eval"]["accuracy/multi_image"]}
    told, untold = (Job(num=0, overrides=[], swept=[], folder=str(folder)) for folder in (finished, finished / "none"))
    assert _done(told, None).return_value == summary["objective"]["value"]
    assert _done(untold, None).return_value is None


def test_a_run_that_is_killed_while_it_answers_goes_on(
    composed: Compose, settings: list[str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its launcher starts it again: nothing trained twice, and no answer that is there given again."""
    config = composed("train", *settings, f"output={tmp_path}")
    with monkeypatch.context() as patch, pytest.raises(KeyError, match="killed"):
        patch.setattr("lookright.commands.evaluating.measure", _killed)
        train(config)
    assert "objective" not in summary_of(tmp_path)
    path = tmp_path / "eval" / "predictions.jsonl"
    first, *_ = lines = path.read_text().splitlines()
    marked = json.loads(first) | {"prediction": "as it was"}
    path.write_text("\n".join([json.dumps(marked), *lines[1:6]]) + "\n")
    monkeypatch.setenv(GO_ON, str(tmp_path))
    train(composed("train", *settings, f"output={tmp_path}"))
    assert predictions(tmp_path / "eval") == [marked, *predictions(finished / "eval")[1:]]
    assert summary_of(tmp_path)["objective"]["value"] is not None
    # once more, of the finished run
    monkeypatch.delenv(GO_ON)
    before = summary_of(tmp_path)
    train(composed("train", f"resume={tmp_path}", "data.path=its_own"))
    assert summary_of(tmp_path) == before


def _killed(*values: Any) -> None:
    raise KeyError("killed")


def test_answers_of_earlier_weights_are_given_again(
    composed: Compose, settings: list[str], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "predictions.jsonl").write_text('{"id": "q0"}\n')
    train(composed("train", *settings, f"output={tmp_path}"))
    assert predictions(tmp_path / "eval") == predictions(finished / "eval")


def test_without_test_sets_the_objective_is_the_held_out_loss(
    composed: Compose, small_run: list[str], tmp_path: Path
) -> None:
    summary = train(composed("train", *small_run, "trainer.max_steps=6", f"output={tmp_path / 'a'}"))
    assert summary["objective"] == {"name": "val/loss", "value": summary["metrics"]["val/loss"]}
    assert not (tmp_path / "a" / "eval").exists() and summary_of(tmp_path / "a") == summary
    settings = [*small_run, "data.val_fraction=0", "trainer.max_steps=1", f"output={tmp_path / 'b'}"]
    assert train(composed("train", *settings))["objective"] == {"name": "val/loss", "value": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.objective=acuracy/multi_image", "did you mean accuracy/multi_image"),
        ("eval.batch_size=0", "eval.batch_size=0; set 1 or more"),
        ("eval.overlays=-1", "eval.overlays=-1; set 0 or more"),
        ("eval.ratio_layer=6", "eval.ratio_layer=6; this model has layers 0 to 5"),
        ("eval.data.path=nowhere.jsonl", "eval: .*nowhere.jsonl: no such file"),
        ("+eval.batchsize=3", "eval.batchsize does not exist; did you mean batch_size"),
        ("eval.metrics={}", "eval.metrics is empty"),
    ],
)
def test_it_is_checked_before_weights_load(
    override: str,
    message: str,
    composed: Compose,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid_weights(monkeypatch)
    given = ["~eval.metrics", "+eval.metrics={}"] if override == "eval.metrics={}" else [override]
    with pytest.raises(ConfigError, match=message):
        train(composed("train", *settings, *given, f"output={tmp_path}"))


@pytest.mark.parametrize("objective", [{"objective": {"name": "val/loss", "value": 0.25}}, {}])
def test_a_sweeper_is_given_the_objective(
    objective: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Hydra's basic launcher gets from each job; a plan measures nothing."""
    monkeypatch.setattr(training, "train", lambda config: objective)
    assert training.job(OmegaConf.create()) == (0.25 if objective else None)
