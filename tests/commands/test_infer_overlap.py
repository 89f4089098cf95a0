"""Questions that a run trained on, or that values were tuned on, are warned of; others are not."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.commands.infer import infer
from lookright.evaluation.overlap import (
    question_key,
    run_config_of,
    trained_on_warning,
    tuned_on_warning,
    write_tuned_on,
)
from lookright.evaluation.questions import Questions
from lookright.records.records import write_jsonl
from lookright.types import Preference, Prompt
from tests.commands.test_infer import question

Compose = Callable[..., DictConfig]


def known(prompt: Prompt, picture: str, split: str = "test") -> Prompt:
    return replace(prompt, provenance=prompt.provenance | {"source_picture": picture, "split": split})


def pair_of(prompt: Prompt, **changes: Any) -> Preference:
    facts = {key: getattr(prompt, key) for key in ("id", "images", "prompt", "format", "target", "regions")}
    return Preference(**{**facts, "chosen": "red", "rejected": ["blue"], "provenance": prompt.provenance, **changes})


@pytest.fixture()
def asked(tmp_path: Path) -> list[Prompt]:
    (tmp_path / "images").mkdir()
    prompts = [known(question(tmp_path, number), f"test/{number}") for number in range(4)]
    write_jsonl(tmp_path / "asked.jsonl", prompts)
    return prompts


def settings(folder: Path, weights: Path) -> list[str]:
    given = [f"data.path={folder / 'asked.jsonl'}", f"output={folder / 'out'}", "overlays=0"]
    return [*given, f"backbone.path={weights}", "decode.max_new_tokens=2"]


def test_values_that_were_chosen_on_these_questions(
    asked: list[Prompt], composed: Compose, llava_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By content: another id does not hide a question, and another text is another question."""
    seen = [replace(asked[1], id="other"), replace(asked[2], prompt=f"{asked[2].prompt} Now?")]
    write_tuned_on(tmp_path / "tuned_on.json", seen)
    decode = ["decode=adaptive", f"decode.tuned_on={tmp_path / 'tuned_on.json'}"]
    with caplog.at_level(logging.WARNING):
        result = infer(composed("infer", *settings(tmp_path, llava_weights), *decode))
    (warning,) = result["warnings"]
    assert warning.startswith("1 of 4 questions (q1 first) are among those that the values of decode were chosen on")
    assert warning in caplog.text and "are among those" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["warnings"] == [warning]
    assert tuned_on_warning({"tuned_on": str(tmp_path / "tuned_on.json")}, [asked[0], asked[3]]) == []
    assert tuned_on_warning({"threshold": 0.5}, asked) == [] == tuned_on_warning(None, asked)
    (lost,) = tuned_on_warning({"tuned_on": str(tmp_path / "gone.json")}, asked)
    assert "is not there" in lost


def test_keys_of_questions(asked: list[Prompt]) -> None:
    keys = {question_key(one) for one in asked}
    assert len(keys) == 4
    assert question_key(replace(asked[0], images=["elsewhere.png"])) == question_key(asked[0])
    assert question_key(replace(asked[0], ground_truth="blue")) not in keys


@pytest.mark.parametrize("same", ["picture", "file", "nothing"])
def test_pictures_that_the_run_was_trained_on(same: str, asked: list[Prompt], tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "images").mkdir(parents=True)
    trained = known(question(folder, 9), "test/3" if same == "picture" else "train/9", "train")
    images = [str(tmp_path / asked[3].images[0])] if same == "file" else trained.images
    write_jsonl(folder / "pairs.jsonl", [pair_of(trained, images=images)])
    OmegaConf.save({"data": {"path": str(folder / "pairs.jsonl"), "image_root": None}}, folder / "config.yaml")
    questions = Questions(str(tmp_path / "asked.jsonl"))
    questions._groups = [(None, asked)]
    for config in (run_config_of(folder, None), run_config_of(None, folder / "adapter")):
        found = trained_on_warning(config, questions, folder)
        if same == "nothing":
            assert found == []
        else:
            assert len(found) == 1 and found[0].startswith("1 of 4 questions (q3 first) show pictures that")
    assert trained_on_warning(run_config_of(None, None), questions, None) == []


def test_published_files_count_by_their_pictures(asked: list[Prompt], tmp_path: Path) -> None:
    rows = [{"id": 0, "image": asked[2].images[0], "prompt": "x", "chosen": "a", "rejected": "b"}]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    questions = Questions(str(tmp_path / "asked.jsonl"))
    questions._groups = [(None, asked)]
    config = OmegaConf.create({"data": {"path": [str(tmp_path / "pairs.json"), str(tmp_path / "x.parquet")]}})
    (found,) = trained_on_warning(config, questions, "run")
    assert "1 of 4 questions (q2 first)" in found
