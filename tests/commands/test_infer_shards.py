"""`infer.py` in shards: the joined files are those of one run, byte for byte, whatever the number of shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.infer import infer
from lookright.common.locks import locked
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError, LookRightError
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question

Run = Callable[..., dict[str, Any] | None]
FILES = ("predictions.jsonl", "metrics.json")


@pytest.fixture(scope="module")
def questions_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files: five batches of three, the last of one, and a file of one short batch."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    for name, numbers in (("many", range(13)), ("few", range(20, 22))):
        write_jsonl(folder / f"{name}.jsonl", [question(folder, number) for number in numbers])
    return [folder / "many.jsonl", folder / "few.jsonl"]


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], llava_weights: Path, questions_files: list[Path]) -> Run:
    def make(folder: Path, *overrides: str) -> dict[str, Any] | None:
        settings = [f"backbone.path={llava_weights}", "decode=sample", "decode.max_new_tokens=3", "batch_size=3"]
        data = f"data.path=[{','.join(map(str, questions_files))}]"
        return infer(composed("infer", data, *settings, "overlays=0", f"output={folder}", *overrides))

    return make


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, "overlays=2")
    return folder


def page(folder: Path) -> str:
    """The page up to what made it."""
    return (folder / "report.html").read_text().split("infer.py, called")[0]


@pytest.mark.parametrize("count", [2, 4])
def test_shards_join_to_the_same_files(
    count: int, run: Run, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in reversed(range(count)):
        assert run(tmp_path, f"shard.count={count}", f"shard.index={index}") is None
        assert f"shard {index} of {count} is done; stage=measure joins all of them" in capsys.readouterr().out
    parts = [path.read_text().splitlines() for path in sorted((tmp_path / "shards").glob("predictions-*"))]
    # in whole batches, the first of each file by the first shard
    assert [len(part) for part in parts] == ([9, 6] if count == 2 else [6, 3, 3, 3])
    assert not (tmp_path / "predictions.jsonl").exists() and not (tmp_path / "made_by.json").exists()
    result = run(tmp_path, f"shard.count={count}", "stage=measure", "overlays=2")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert page(tmp_path) == page(whole) and result == json.loads((whole / "metrics.json").read_text())
    assert read_made_by(tmp_path).inputs == read_made_by(whole).inputs
    assert len(list((tmp_path / "shards").glob("made_by-*"))) == count


def test_a_killed_shard_goes_on(run: Run, whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "shard.count=2", "shard.index=0")
    with pytest.raises(ConfigError, match=r"stage=measure needs every shard; missing: .*predictions-00001-of-00002"):
        run(tmp_path, "shard.count=2", "stage=measure")
    run(tmp_path, "shard.count=2", "shard.index=1")
    path = tmp_path / "shards" / "predictions-00001-of-00002.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LookRightError, match=r"question q11 has no answer yet; run shard.index=1 to its end"):
        run(tmp_path, "shard.count=2", "stage=measure")
    assert not (tmp_path / "predictions.jsonl").exists()
    run(tmp_path, "shard.count=2", "shard.index=1")
    run(tmp_path, "shard.count=2", "stage=measure")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_stages_of_one_process(run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers without heat maps need no weights."""
    assert run(tmp_path, "stage=answer") is None and not (tmp_path / "metrics.json").exists()
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    run(tmp_path, "stage=measure")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shard.count=3"], r"predictions of another config \(shard.count differ\)"),
        ([], r"predictions of another config \(shard.count differ\)"),
        (["shard.count=2", "shard.index=1", "batch_size=4"], r"another config \(batch_size differ\)"),
        (["shard.count=2", "shard.index=1", "decode.max_new_tokens=4"], r"another config \(decode differ\)"),
        (["shard.count=2", "shard.index=2"], "shard.index=2, shard.count=2: an index is 0 to count - 1"),
        (["stage=select", "batch_size=0"], "stage='select'; valid: all, answer, measure\nbatch_size=0; set 1 or more"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    overrides: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "shard.count=2", "shard.index=0")
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, *overrides)


def test_shards_lock_their_own_part_and_the_join_all(run: Run, tmp_path: Path) -> None:
    with locked(tmp_path, ".lock-00000-of-00002"):
        run(tmp_path, "shard.count=2", "shard.index=1")
        for given in ("shard.index=0", "stage=measure"):
            with pytest.raises(ConfigError, match=f"output={tmp_path} is being written by process"):
                run(tmp_path, "shard.count=2", given)
