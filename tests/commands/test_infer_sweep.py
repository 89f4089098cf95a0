"""`infer.py run=SWEEP_DIR`: each finished run answers as it would alone, the others are named, one table at the end."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.commands import infer as module
from lookright.commands.infer import infer
from lookright.commands.infer_sweep import is_sweep
from lookright.commands.train import train
from lookright.errors import ConfigError, LookRightError
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question

Run = Callable[..., Any]


def finish_two_runs(composed: Callable[..., DictConfig], small_run: list[str], folder: Path) -> None:
    """Runs `0` and `1` below a folder, which answer differently."""
    for name, alpha in (("0", 0), ("1", 1)):
        given = ["trainer.max_steps=3", "optimizer.lr=0.05", f"loss.alpha={alpha}", f"output={folder / name}"]
        train(composed("train", *small_run, *given))


@pytest.fixture(scope="module")
def sweep(composed: Callable[..., DictConfig], small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one that stopped, one that failed."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    finish_two_runs(composed, small_run, folder)
    for name in ("2", "10"):
        (folder / name).mkdir()
        shutil.copy(folder / "0" / "config.yaml", folder / name)
    (folder / "10" / "error.txt").write_text("RuntimeError: something broke\nand more\n")
    return folder


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(9)])

    def make(output: Path, *overrides: str) -> Any:
        given = [f"data.path={folder / 'instructions.jsonl'}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
        return infer(composed("infer", *given, f"output={output}", *overrides))

    return make


def test_each_run_answers_as_it_would_alone(
    run: Run, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(tmp_path / "all", f"run={sweep}")
    told = capsys.readouterr().out.splitlines()
    assert list(results) == ["0", "1"] and sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "0",
        "1",
        "report.csv",
        "report.md",
    ]
    for name in ("0", "1"):
        run(tmp_path / name, f"run={sweep / name}")
        for file in ("predictions.jsonl", "metrics.json"):
            assert (tmp_path / "all" / name / file).read_bytes() == (tmp_path / name / file).read_bytes()
        assert results[name] == json.loads((tmp_path / name / "metrics.json").read_text())
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("0", "1")]
    assert texts[0] != texts[1]
    assert [line for line in told if line.startswith("not answered: ")] == [
        f"not answered: run 2 is stopped (go on with: python train.py resume={sweep / '2'})",
        "not answered: run 10 is failed (RuntimeError: something broke)",
    ]
    with (tmp_path / "all" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], float(row["loss.alpha"])) for row in rows] == [("0", 0.0), ("1", 1.0)]
    for row in rows:
        entry = results[row["run"]]["accuracy"]["multi_image"]
        assert float(row["accuracy/multi_image"]) == entry["value"]
        assert float(row["accuracy/multi_image low"]) == entry["low"]
    table = (tmp_path / "all" / "report.md").read_text().splitlines()
    assert table[0].startswith("| Run | loss.alpha | accuracy/multi_image | accuracy/single_image |")
    assert table == told[told.index(table[0]) : told.index(table[0]) + 4] and table[2].startswith("| 0 |")


def test_one_run_that_fails_loses_no_other(
    run: Run, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = module.load_policy

    def broken(backbone: Any, adapter: str, *others: Any) -> Any:
        if adapter == str(sweep / "0" / "adapter"):
            raise LookRightError("these weights are broken")
        return load(backbone, adapter, *others)

    with monkeypatch.context() as patch, pytest.raises(LookRightError) as error:
        patch.setattr(module, "load_policy", broken)
        run(tmp_path, f"run={sweep}")
    assert str(error.value) == "1 of 2 runs failed\nrun 0: these weights are broken"
    assert (tmp_path / "1" / "metrics.json").is_file() and "| 1 |" in (tmp_path / "report.md").read_text()
    # again: what is answered stays
    path = tmp_path / "1" / "predictions.jsonl"
    path.write_text(path.read_text().replace('"id"', '"as_it_was": 1, "id"'))
    assert list(run(tmp_path, f"run={sweep}")) == ["0", "1"]
    assert path.read_text().count("as_it_was") == 9


def test_shards_of_a_sweep_are_shards_of_each_run(run: Run, sweep: Path, tmp_path: Path) -> None:
    given = [f"run={sweep}", "shard.count=2"]
    assert [run(tmp_path, *given, f"shard.index={index}") for index in (0, 1)] == [{}, {}]
    assert list(run(tmp_path, *given, "stage=measure")) == ["0", "1"]
    run(tmp_path / "whole", f"run={sweep}")
    for name in ("0/predictions.jsonl", "1/predictions.jsonl", "report.csv", "report.md"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_run_is_told_once_before_any(
    run: Run, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_policy", lambda *values: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError) as error:
        run(tmp_path, f"run={sweep}", "dtype=half", "overlays=-1")
    assert len(str(error.value).splitlines()) == 2
    shutil.copytree(sweep / "2", tmp_path / "none" / "2")
    with pytest.raises(ConfigError, match=r"run=.*none: none of its 1 runs is finished\nrun 2 is stopped"):
        run(tmp_path, f"run={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"run=.*empty holds no config.yaml"):
        run(tmp_path, f"run={tmp_path / 'empty'}")
    assert is_sweep(str(sweep)) and not is_sweep(str(sweep / "0")) and not is_sweep(None)
