"""Test questions of others through `infer.py`: where the target is unknown there is no ratio, and everything else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.commands.infer import infer
from lookright.errors import ConfigError
from tests.published import OLD, blobs

QUESTIONS = [
    ("sequence", 2, "Image1:<image-placeholder>\nImage2:<image-placeholder>\nIn Image2, what is it?"),
    ("sequence", 2, "<image>\n<image>\nWhat differs?"),
    ("grid_collage", 1, "<image>\nIn Image2, what is it?"),
    ("single_image", 1, "What is it?"),
]
"""The second names no image, the third is a collage in no known layout."""


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aa_dpo")
    (folder / "new").mkdir()
    rows = []
    for number, (_, count, prompt) in enumerate(QUESTIONS):
        names = [f"{number}_{place}.jpg" for place in range(count)]
        for place, name in enumerate(names):
            blobs((40, 30), place).save(folder / "new" / name)
        image = [f"{OLD}/{name}" for name in names]
        rows.append({"id": 7, "image": image, "prompt": prompt, "answer": "red", "image_url": "http://example.org"})
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"


@pytest.fixture
def settings(llava_weights: Path, questions: Path, tmp_path: Path) -> list[str]:
    return [
        f"backbone.path={llava_weights}",
        f"data.path={questions}",
        f"data.path_map={{{OLD}: new}}",
        "decode.max_new_tokens=3",
        "overlays=4",
        f"output={tmp_path / 'out'}",
    ]


@pytest.mark.parametrize("decode", ["greedy", "adaptive"])
def test_unknown_targets_are_answered_without_a_ratio(
    composed: Callable[..., DictConfig], settings: list[str], tmp_path: Path, decode: str
) -> None:
    result = infer(composed("infer", f"decode={decode}", *settings))
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["7", "7#2", "7#3", "7#4"]
    assert [line["format"] for line in lines] == [name for name, _, _ in QUESTIONS]
    assert [line["num_images"] for line in lines] == [2, 2, 1, 1]
    unknown = [line["attention_ratio"] is None and line["even_ratio"] is None for line in lines]
    assert unknown == [False, True, True, False]
    assert lines[3]["attention_ratio"] == pytest.approx(1.0)
    assert {name: entry["num_questions"] for name, entry in result["attention_ratio"].items()} == {
        "sequence": 1,
        "multi_image": 1,
        "single_image": 1,
    }
    assert sum(entry["num_questions"] for name, entry in result["accuracy"].items() if name != "multi_image") == 4
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<article") == 4 and "cannot open" not in report


def test_a_scope_that_needs_the_target_says_so(composed: Callable[..., DictConfig], settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="decode.scope=target: record 7#2 has no target .*; set decode.scope=all"):
        infer(composed("infer", "decode=adaptive", "decode.scope=target", *settings))
