"""Sections are kept one by one, and sides that compute another step are refused."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.machine import Watch
from benchmarks.turns import SideResult


def result(seconds: list[float], losses: list[float], peak: float) -> SideResult:
    return SideResult(seconds=seconds, losses=losses, peak_mib=peak)


def test_sides_are_compared_by_medians() -> None:
    results = {"ours": result([1.0, 2.0, 9.0], [0.7, 0.6], 100.0), "other": result([6.0, 5.0, 4.0], [0.7, 0.6], 400.0)}
    found = run._compared(results, "other", 1e-5)
    assert found["ours"]["times_as_fast"] == 2.5 and found["ours"]["share_of_memory"] == 0.25
    assert found["other"]["times_as_fast"] == found["other"]["share_of_memory"] == 1.0


@pytest.mark.parametrize("loss", [0.61, float("nan")])
def test_sides_whose_losses_part_are_refused(loss: float) -> None:
    results = {"ours": result([1.0], [0.7, loss], 1.0), "other": result([2.0], [0.7, 0.6], 1.0)}
    with pytest.raises(RuntimeError, match="not the same step"):
        run._compared(results, "other", 1e-3)


def test_a_section_is_kept_when_it_is_done_and_a_broken_one_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    assert run._run("first", lambda: {"a": 1}) and not run._run("second", broken) and run._run("third", lambda: [2])
    kept = json.loads((tmp_path / "results.json").read_text())
    assert {name: entry["figures"] for name, entry in kept.items()} == {"first": {"a": 1}, "third": [2]}
    assert kept["first"]["machine"]["torch"] and kept["first"]["busy_cores_of_others"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_only_sections_without_figures_run_unless_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran: list[str] = []
    known = {name: lambda name=name: ran.append(name) for name in ("one", "two")}
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(run, "make_workload", lambda *_: None)
    monkeypatch.setattr(run, "sections", lambda *_: known)
    for options in (["two"], [], [], ["two"], ["--again"]):
        monkeypatch.setattr(sys, "argv", ["run", *options])
        assert run.main() == 0
    assert ran == ["two", "one", "two", "one", "two"]
    monkeypatch.setattr(sys, "argv", ["run", "three"])
    with pytest.raises(SystemExit):
        run.main()
    assert "valid: one, two" in capsys.readouterr().err


def test_own_work_and_that_of_finished_children_is_not_that_of_others() -> None:
    """Two cores at most can be busy; what this test itself does for a second is not counted among the others."""
    watch = Watch()
    before = watch.own
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert Watch().own - before >= 0.55
    assert 0 <= watch.others() < 64
