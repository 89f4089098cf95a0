"""`eval.every`: test questions are measured while a run trains, and the run is bit for bit the one without."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from lookright.commands.evaluating import Evaluation
from lookright.commands.train import train
from lookright.commands.watching import EvaluateWhileTraining, as_it_was
from lookright.errors import ConfigError
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question
from tests.commands.test_train import forbid_weights
from tests.commands.test_train_resume import adapter, assert_same_run, run_until

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def settings(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four steps with dropout, a validation every two of them, and eleven questions."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(11)])
    own = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.checkpoint_every=1", "eval=test_sets"]
    own += [f"eval.data.path={folder / 'instructions.jsonl'}", "eval.decode.max_new_tokens=3", "eval.batch_size=3"]
    return [*small_run, *own, "eval.overlays=0"]


@pytest.fixture(scope="module")
def plain(composed: Compose, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    train(composed("train", *settings, f"output={folder}"))
    return folder


@pytest.fixture(scope="module")
def stepwise(composed: Compose, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured every two steps."""
    folder = tmp_path_factory.mktemp("stepwise")
    train(composed("train", *settings, "eval.every=2", f"output={folder}"))
    return folder


def rows(folder: Path, prefix: str) -> list[dict[str, str]]:
    """Rows of metrics.csv with anything below a prefix, that alone."""
    with (folder / "metrics.csv").open(newline="") as file:
        found = [
            {key: value for key, value in row.items() if value and (key == "step" or key.startswith(prefix))}
            for row in csv.DictReader(file)
        ]
    return [row for row in found if len(row) > 1]


def assert_same_training(folder: Path, other: Path) -> None:
    for prefix in ("train/", "val/"):
        assert rows(folder, prefix) == rows(other, prefix) != []
    one, two = adapter(folder), adapter(other)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_by_steps_the_training_is_the_same_bit_for_bit(stepwise: Path, plain: Path) -> None:
    assert_same_training(stepwise, plain)
    measured = rows(stepwise, "eval/")
    assert [row["step"] for row in measured] == ["1", "3"] and rows(plain, "eval/") == []


def test_the_last_of_all_questions_is_what_the_end_measures(stepwise: Path) -> None:
    end = json.loads((stepwise / "eval" / "metrics.json").read_text())
    last = rows(stepwise, "eval/")[-1]
    for name in ("accuracy/multi_image", "accuracy/single_image", "attention_ratio/sequence", "confidence/multi_image"):
        key, group = name.split("/")
        # adapters add in one product while they train, and in three steps at the end
        assert float(last[f"eval/{name}"]) == pytest.approx(end[key][group]["value"], abs=1e-4), name


@pytest.mark.parametrize("decode", ["greedy", "sample"])
def test_with_validations_callbacks_may_monitor_it(
    decode: str, composed: Compose, settings: list[str], plain: Path, tmp_path: Path
) -> None:
    best = ["callbacks=best_checkpoint", "callbacks.best_checkpoint.monitor=eval/attention_ratio/multi_image"]
    given = [*best, "callbacks.best_checkpoint.mode=max", "eval.every=validation", "eval.every_questions=8"]
    choice = [f"decode@eval.decode={decode}", "eval.decode.max_new_tokens=3"]
    summary = train(composed("train", *settings, *given, *choice, f"output={tmp_path}"))
    assert_same_training(tmp_path, plain)
    measured = rows(tmp_path, "eval/")
    assert [row["step"] for row in measured] == [row["step"] for row in rows(plain, "val/")]
    values = [float(row["eval/attention_ratio/multi_image"]) for row in measured]
    assert summary["best"]["best_checkpoint"]["value"] == pytest.approx(max(values), abs=1e-6)
    assert summary["best"]["best_checkpoint"]["metric"] == "eval/attention_ratio/multi_image"
    assert summary["metrics"]["eval/accuracy/multi_image"] == float(measured[-1]["eval/accuracy/multi_image"])


def test_a_killed_run_goes_on_to_the_same_numbers(
    composed: Compose, settings: list[str], stepwise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind a measurement, which is not done again, and before the next."""
    run_until(monkeypatch, composed("train", *settings, "eval.every=2", f"output={tmp_path}"), 3)
    calls = []
    measured = EvaluateWhileTraining._measured
    monkeypatch.setattr(
        EvaluateWhileTraining, "_measured", lambda self, *given: (calls.append(1), measured(self, *given))[1]
    )
    train(composed("train", f"resume={tmp_path}", "data.path=its_own"))
    assert_same_run(tmp_path, stepwise)
    assert len(calls) == 1


def test_what_ranks_answer_together_is_what_one_answers(
    composed: Compose, settings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[dict[str, dict[str, object]]] = []

    def share(self: EvaluateWhileTraining, trainer: object, module: object) -> dict[str, float]:
        with as_it_was(module.pair.policy), torch.no_grad():
            whole = self.answer(module)
            parts = [self.answer(module, rank, 3) for rank in range(3)]
        assert all(parts) and sum(map(len, parts)) == len(whole)
        found.append(whole)
        assert {key: line for part in parts for key, line in part.items()} == whole
        return {}

    monkeypatch.setattr(EvaluateWhileTraining, "_measured", share)
    given = ["eval.every=4", "eval.every_questions=10", f"output={tmp_path}"]
    train(composed("train", *settings, *given))
    # at most ten of eleven, of all formats
    assert len(found) == 1 and len(found[0]) == 10
    assert len({line["format"] for line in found[0].values()}) == 4


def test_modes_and_random_numbers_are_put_back() -> None:
    policy = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))
    policy[1].eval()
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(KeyError), as_it_was(policy):
        policy.eval()
        torch.rand(7)
        raise KeyError
    assert torch.equal(torch.rand(3), wanted)
    assert (policy.training, policy[0].training, policy[1].training) == (True, True, False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.every=0"], "eval.every=0; set a number of optimiser steps, validation, or null"),
        (["eval.every=epoch"], "eval.every='epoch'; set a number"),
        (["eval.every=2", "eval.every_questions=0"], "eval.every_questions=0; set 1 or more"),
        (["eval.every=validation", "data.val_fraction=0"], "eval.every=validation: no pair is held out"),
        (
            [
                "eval.every=2",
                "callbacks=best_checkpoint",
                "callbacks.best_checkpoint.monitor=eval/accuracy/multi_image",
            ],
            "monitor='eval/accuracy/multi_image' is not measured; set eval=test_sets and eval.every=validation",
        ),
        (["eval.every=2", "trainer.strategy=fsdp"], "trainer=fsdp: no process has the whole policy to answer with"),
    ],
)
def test_what_cannot_be_is_told_before_weights_load(
    overrides: list[str],
    message: str,
    composed: Compose,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid_weights(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        train(composed("train", *settings, *overrides, f"output={tmp_path}"))


def test_a_judge_is_asked_at_the_end_alone() -> None:
    rules = SimpleNamespace(names=["judge"])
    metric = SimpleNamespace(rules=rules, judges=False)
    with pytest.raises(ConfigError, match="every=3: a judge is asked at the end alone"):
        Evaluation(None, None, {"accuracy": metric}, every=3)
