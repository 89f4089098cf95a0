"""Killed at any point, or cut in shards: the final files are those of one unbroken run, byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.common.jsonl import AppendOnly
from lookright.composing.workspace import open_workspace
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError, LookRightError
from tests.commands.conftest import write_source

Run = Callable[..., Path]
FILES = ("instructions.jsonl", "skipped.jsonl", "answers.jsonl", "preferences.jsonl", "summary.json", "source.json")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def assert_same_files(folder: Path, reference: Path) -> None:
    for name in FILES:
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    assert (folder / "report.html").read_text() == (reference / "report.html").read_text()
    pictures = sorted(path.name for path in (reference / "images").iterdir())
    assert sorted(path.name for path in (folder / "images").iterdir()) == pictures
    for name in pictures:
        assert (folder / "images" / name).read_bytes() == (reference / "images" / name).read_bytes()


def kill_after(monkeypatch: pytest.MonkeyPatch, num_lines: int) -> None:
    """Die in the middle of writing the line after `num_lines` others."""
    add, count = AppendOnly.add, []

    def dying(self: AppendOnly, line: dict[str, Any]) -> None:
        if len(count) == num_lines:
            self._file.write('{"id": "' + line["id"])
            self._file.flush()
            raise Killed
        count.append(line["id"])
        add(self, line)

    monkeypatch.setattr(AppendOnly, "add", dying)


@pytest.mark.parametrize("kills", [(0, 7, 4), (19, 1), (25, 3)], ids=str)
def test_killed_run_goes_on(
    kills: tuple[int, ...], run: Run, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 lines of prompts (or of skips), then answers in batches of 4: each number is lines that a session wrote."""
    for num_lines in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, num_lines)
            run(tmp_path)
    run(tmp_path)
    assert_same_files(tmp_path, unbroken)


def test_shards_join_to_the_same_files(run: Run, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage=select needs every shard; missing: .*instructions-00000-of-00003"):
        run(tmp_path, "shard.count=3", "stage=select")
    for index in (2, 0, 1):
        run(tmp_path, "shard.count=3", f"shard.index={index}")
    assert not (tmp_path / "preferences.jsonl").exists()
    run(tmp_path, "shard.count=3", "stage=select")
    records = [path.name for path in (tmp_path / "shards").glob("made_by*")]
    assert sorted(records) == [f"made_by-{index:05d}-of-00003.json" for index in range(3)]
    assert "source.train_json" in read_made_by(tmp_path).inputs
    assert_same_files(tmp_path, unbroken)
    with pytest.raises(ConfigError, match="batch_size was 4, is 5"):
        run(tmp_path, "shard.count=3", "shard.index=1", "batch_size=5")
    with pytest.raises(ConfigError, match="shard.count was 3, is 2"):
        run(tmp_path, "shard.count=2")


def test_shards_of_lots_by_format_and_an_unfinished_shard(run: Run, tmp_path: Path) -> None:
    counts = ["num_prompts={sequence:5,pic_in_pic:6}", "companions=random", "selection=none"]
    whole = run(tmp_path / "whole", *counts)
    parts = tmp_path / "parts"
    run(parts, *counts, "shard.count=2", "stage=compose")
    run(parts, *counts, "shard.count=2", "shard.index=1", "stage=compose")
    run(parts, *counts, "shard.count=2", "shard.index=1", "stage=answer")
    (parts / "shards" / "answers-00000-of-00002.jsonl").touch()
    with pytest.raises(LookRightError, match="has no answer yet; run stage=answer of shard 0"):
        run(parts, *counts, "shard.count=2", "stage=select")
    run(parts, *counts, "shard.count=2", "stage=answer")
    run(parts, *counts, "shard.count=2", "stage=select")
    assert_same_files(parts, whole)


def test_another_source_under_the_path_of_the_one_that_was_read_is_refused(run: Run, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    given = [f"source.train_json={source / 'rows.json'}", f"source.image_folder={source / 'pictures'}"]
    run(tmp_path / "out", *given, "stage=compose")
    before = (tmp_path / "out" / "instructions.jsonl").read_bytes()
    rows = json.loads((source / "rows.json").read_text())
    (source / "rows.json").write_text(json.dumps(rows[::-1]))
    with pytest.raises(ConfigError, match="source.train_json: .*rows.json is not what output=.*out was made of"):
        run(tmp_path / "out", *given)
    assert (tmp_path / "out" / "instructions.jsonl").read_bytes() == before


def test_a_type_that_follows_the_device_is_known_once_answers_are_there(
    composed: Callable[..., DictConfig], settings: list[str], tmp_path: Path
) -> None:
    """Answered on a GPU, selected where none is: the second neither contradicts the first nor forgets its type."""

    def opened(*overrides: str) -> str:
        config = composed("generate", *settings, f"output={tmp_path}", *overrides)
        open_workspace(config)
        return OmegaConf.load(tmp_path / "config.yaml").dtype

    assert opened("stage=compose") == "auto"
    assert opened("dtype=bfloat16") == "bfloat16"
    (tmp_path / "answers.jsonl").touch()
    assert opened("stage=select") == "bfloat16"
    with pytest.raises(ConfigError, match=r"\(dtype was bfloat16, is float32\); set these back"):
        opened("dtype=float32")
