"""A sweep's table and page: keys that differ, means and differences by hand, runs that are not finished."""

import csv
import json
import os
import shlex
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.commands.train import train
from lookright.errors import ConfigError
from lookright.launching.jobs import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Job, Launch, Status
from lookright.records.records import write_jsonl
from lookright.report.__main__ import main
from lookright.report.page import command, grids
from lookright.report.runs import natural, read_runs
from lookright.report.sweep import differing_keys, read_sweep
from tests.commands.test_infer import question

GONE = 2**22 + 1
"""Above the largest process id of Linux."""
ACCURACY = {(0.0, 0): 50.0, (0.0, 1): 54.0, (0.0, 2): 52.0, (0.5, 0): 53.0, (0.5, 1): 58.0, (0.5, 2): 60.0}


def write_run(folder: Path, alpha: float = 1.0, seed: int = 0, gamma: float = 0.1, **summary: Any) -> Path:
    """A run's folder; without `objective` it is not finished."""
    folder.mkdir(parents=True)
    config = {
        "loss": {"alpha": alpha, "gamma": gamma, "terms": {"dpo": {"weight": "${loss.alpha}"}}},
        "trainer": {"max_steps": 2},
        "data": {"path": ["a", "b"], "seed": seed},
        "logger": {"save_dir": f"{folder}/logs"},
        "seed": seed,
        "eval": {"batch_size": 4},
        "output": str(folder),
        "resume": None,
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    rows = "".join(f"{step},{0.7 - step / 10},\r\n" for step in range(3))
    (folder / "metrics.csv").write_text(f"step,train/loss,val/loss\r\n{rows}3,,{0.5 + seed / 10}\r\n4,0.1")
    if summary:
        (folder / "summary.json").write_text(json.dumps({"steps": 4, "seconds": 1.5, "metrics": {}} | summary))
    return folder


def told(value: float) -> dict[str, Any]:
    name = "accuracy/multi_image"
    return {"objective": {"name": name, "value": value}, "eval": {name: value}}


@pytest.fixture()
def sweep(tmp_path: Path) -> Path:
    """Two values of alpha, three seeds each, of Hydra's own launcher."""
    for num, ((alpha, seed), value) in enumerate(ACCURACY.items()):
        write_run(tmp_path / "sweep" / str(num), alpha, seed, **told(value))
    return tmp_path / "sweep"


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_keys_that_differ_are_found_and_followers_are_left_out(sweep: Path) -> None:
    """`data.seed` goes with `seed`; a folder of the run's own, a reference and `output` are no settings."""
    assert differing_keys(read_runs(sweep)) == ["loss.alpha", "seed"]
    (settings,) = {tuple(run.settings) for run in read_runs(sweep)}
    assert "data.path" in settings and not {"output", "resume"} & set(settings)


def test_means_and_intervals_over_seeds_by_hand(sweep: Path) -> None:
    first, second = read_sweep(sweep).groups
    # t of 2 degrees of freedom is 4.302653; 50, 54, 52 have s = 2, and 53, 58, 60 have s = sqrt(13)
    assert (first.settings, first.mean) == ({"loss.alpha": 0.0}, 52.0)
    assert first.interval.low == pytest.approx(52 - 4.302653 * 2 / 3**0.5, abs=1e-5)
    assert second.mean == second.interval.value == 57.0
    assert second.interval.high == pytest.approx(57 + 4.302653 * 13**0.5 / 3**0.5, abs=1e-5)
    assert (second.interval.count, first.change) == (3, None)


def test_differences_over_seeds_by_hand(sweep: Path) -> None:
    """Seed by seed: 3, 4 and 8, whose s is sqrt(7)."""
    own, other = read_sweep(sweep, against="1").groups
    assert own.change is None and other.change == 5.0
    assert other.change_interval.low == pytest.approx(5 - 4.302653 * 7**0.5 / 3**0.5, abs=1e-5)


def test_the_best_is_the_highest_or_the_lowest(sweep: Path) -> None:
    assert read_sweep(sweep).best.name == "5"
    by_loss = read_sweep(sweep, metric="val/loss")
    assert by_loss.lower_is_better and by_loss.best.name == "0" and by_loss.value(by_loss.best) == 0.5


def test_what_is_misspelt_is_refused(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"--metric val/los: no run has it; valid: .*val/loss"):
        read_sweep(sweep, metric="val/los")
    with pytest.raises(ConfigError, match="--against 7 is none of the runs 0, 1, 2"):
        read_sweep(sweep, against="7")
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "holds no run of train.py" in capsys.readouterr().err


def test_a_heat_map_has_a_cell_for_each_two_values(tmp_path: Path) -> None:
    """10 stands behind 9; a cell of two seeds is their mean, and one without a finished run is empty."""
    for num, (alpha, gamma, seed, value) in enumerate(
        [(9, 0.1, 0, 40.0), (9, 0.1, 1, 41.0), (10, 0.1, 0, 60.0), (9, 1.0, 0, 50.0)]
    ):
        write_run(tmp_path / str(num), alpha, seed, gamma, **told(value))
    write_run(tmp_path / "4", 10, 0, 1.0)
    (drawing,) = grids(read_sweep(tmp_path))
    texts = [mark.text for mark in drawing.marks if mark.shape == "text"]
    assert texts == ["0.1", "1.0", "9", "40.5", "50", "10", "60", "-"]
    fills = [float(mark.attributes["fill-opacity"]) for mark in drawing.marks if mark.shape == "rect"]
    # 40.5 is the least and 60 the most, 50 lies between by its value
    assert fills == pytest.approx([0.08, 0.08 + 0.62 * 9.5 / 19.5, 0.7], abs=1e-5)


def launched(sweep: Path, states: dict[int, Status | None], **options: Any) -> None:
    """A launch of `hydra/launcher=local` over alpha and seed, of a launcher that runs."""
    folder = sweep / "launch" / "1"
    folder.mkdir(parents=True)
    jobs = []
    for num in states:
        overrides = ["data.path=a b", f"loss.alpha={num // 2}", "loss/kind=ipo" if num % 2 else "loss/kind=dpo"]
        place = sweep / str(num)
        own = [*overrides, f"output='{place}'", f"hydra.job.num={num}", "hydra.mode=RUN"]
        jobs.append(Job(num=num, overrides=own, swept=overrides[1:], folder=str(place)))
    launch = Launch(
        folder=folder,
        module="lookright.commands.train",
        python="python",
        cwd=".",
        path="",
        jobs=jobs,
        flags=["--config-dir", "mine/conf", "--config-name", "train"],
        **{"host": socket.gethostname(), "pid": os.getpid()} | options,
    )
    launch.save()
    for num, status in states.items():
        if status is not None:
            launch.set_status(num, status)


def test_failed_running_and_waiting_jobs_are_rows(tmp_path: Path) -> None:
    here = {"where": socket.gethostname(), "pid": os.getpid()}
    launched(
        tmp_path,
        {
            0: Status(state=FINISHED, exit_code=0),
            1: Status(state=FAILED, exit_code=2, error="data.path=x: no such file\nmore"),
            2: Status(state=RUNNING, **here),
            3: None,
            4: Status(state=RUNNING, where=here["where"], pid=GONE),
            5: Status(state=STOPPED, where=here["where"], pid=GONE),
        },
    )
    for num in (0, 2, 4, 5):
        write_run(tmp_path / str(num), num // 2, **(told(50.0) if num == 0 else {}))
    assert main([str(tmp_path)]) == 0
    found = rows(tmp_path)
    states = {name: row["state"] for name, row in found.items()}
    assert states == dict(zip("012345", (FINISHED, FAILED, RUNNING, WAITING, FAILED, STOPPED), strict=True))
    # a job that left no folder has its settings from its command line
    assert (found["1"]["loss.alpha"], found["1"]["loss/kind"], found["1"]["detail"]) == (
        "0",
        "ipo",
        "data.path=x: no such file",
    )
    # what runs tells what it knows, but for the row that is being written
    assert float(found["2"]["train/loss"]) == pytest.approx(0.5) and found["2"]["accuracy/multi_image"] == ""
    assert "its process is gone" in found["4"]["detail"] and "goes on with resume=" in found["5"]["detail"]
    page = (tmp_path / "report.html").read_text()
    assert "no such file" in page and "<td>running</td>" in page.replace("<span>running</span>", "running")


def test_the_best_run_has_the_command_that_repeats_it(tmp_path: Path) -> None:
    launched(tmp_path, {0: Status(state=FINISHED)})
    write_run(tmp_path / "0", 0, **told(50.0))
    assert main([str(tmp_path)]) == 0
    (line,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("python train.py")]
    assert shlex.split(line) == [
        *("python", "train.py", "--config-dir", "mine/conf"),
        *("data.path=a b", "loss.alpha=0", "loss/kind=dpo", f"output={tmp_path}_best"),
    ]


def test_a_run_that_another_launch_went_on_with_has_the_command_that_began_it(tmp_path: Path) -> None:
    """As a search does with trials that were killed."""
    launched(tmp_path, {0: Status(state=RUNNING, where=socket.gethostname(), pid=GONE)})
    first = Launch.load(tmp_path / "launch" / "1")
    folder = tmp_path / "launch" / "2"
    folder.mkdir()
    going_on = replace(first.jobs[0], overrides=[f"resume='{tmp_path / '0'}'", "hydra.mode=RUN"], swept=[])
    again = replace(first, folder=folder, jobs=[going_on])
    again.save()
    again.set_status(0, Status(state=FINISHED))
    write_run(tmp_path / "0", 0, **told(50.0))
    (run,) = read_runs(tmp_path)
    assert (run.state, run.given) == (FINISHED, {"data.path": "a b", "loss.alpha": 0, "loss/kind": "dpo"})
    assert run.command == "python train.py --config-dir mine/conf 'data.path=a b' loss.alpha=0 loss/kind=dpo"


def test_a_job_that_was_stopped_and_is_gone_on_with_by_hand_runs(tmp_path: Path) -> None:
    """Not where the lock is of another machine, where a kill may have left it."""
    stopped = Status(state=STOPPED, where=socket.gethostname(), pid=GONE)
    launched(tmp_path, {0: stopped, 1: stopped})
    for num, host in enumerate((socket.gethostname(), "node7")):
        (write_run(tmp_path / str(num)) / ".lock").write_text(f"process {os.getpid()} on {host} since 2026\n")
    assert [run.state for run in read_runs(tmp_path)] == [RUNNING, STOPPED]


def test_jobs_that_no_launcher_will_start_are_told(tmp_path: Path) -> None:
    launched(tmp_path, {0: None}, pid=GONE)
    (run,) = read_runs(tmp_path)
    assert (run.state, run.detail) == (STOPPED, "never begun: its launcher is gone")


def test_a_sweep_that_was_moved_has_each_run_once(tmp_path: Path) -> None:
    launched(tmp_path / "before", {0: Status(state=FINISHED), 1: Status(state=FAILED, error="no such file")})
    write_run(tmp_path / "before" / "0", 0, **told(50.0))
    (tmp_path / "before").rename(tmp_path / "after")
    first, second = read_runs(tmp_path / "after")
    assert (first.name, first.state, second.name, second.detail) == ("0", FINISHED, "1", "no such file")
    assert first.command == "python train.py --config-dir mine/conf 'data.path=a b' loss.alpha=0 loss/kind=dpo"


def test_a_sweep_is_named_from_inside_too(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = replace(read_runs(sweep)[0], command="python train.py seed=1")
    for place, given, output in ((sweep, ".", f"{sweep}_best"), (sweep.parent, "sweep", "sweep_best")):
        monkeypatch.chdir(place)
        assert main([given]) == 0
        assert (sweep / "report.md").read_text().startswith("# Sweep sweep\n")
        assert command(read_sweep(Path(given)), best) == f"python train.py seed=1 output={output}"


def test_a_run_that_came_to_no_number_is_not_the_best(sweep: Path) -> None:
    """What its last validation said before does not count."""
    write_run(sweep / "6", 9, 9)
    (sweep / "6" / "metrics.csv").write_text("step,val/loss\n0,0.001\n1,nan\n")
    summary = {"steps": 2, "metrics": {"val/loss": None}, "objective": {"name": "val/loss", "value": None}}
    (sweep / "6" / "summary.json").write_text(json.dumps(summary))
    found = read_sweep(sweep, metric="val/loss")
    assert found.value(found.runs[6]) is None and found.best.name == "0"


@pytest.mark.parametrize(
    ("summary", "place"),
    [
        ({"metrics": {"val/loss": "low"}}, "metrics.val/loss='low' is not a number"),
        ({"eval": {"accuracy/multi_image": [1]}}, "eval.accuracy/multi_image=[1] is not a number"),
        ({"objective": {"name": ["val/loss"]}}, r"objective.name=['val/loss'] is not text"),
        ({"objective": 3}, "objective=3 is not a mapping"),
    ],
)
def test_a_damaged_summary_is_named(
    summary: dict[str, Any], place: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "3" / "summary.json").write_text(json.dumps(summary))
    assert main([str(sweep)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sweep / '3' / 'summary.json'}: {place}")


def test_an_interval_that_is_none_is_left_out(sweep: Path) -> None:
    path = sweep / "3" / "eval" / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"accuracy": {"multi_image": {"value": 50.0, "low": None, "high": 60.0}}}))
    assert main([str(sweep)]) == 0 and rows(sweep)["3"].get("accuracy/multi_image low", "") == ""


def test_runs_without_a_launcher_are_running_failed_or_stopped(tmp_path: Path) -> None:
    for name, pid in (("a", os.getpid()), ("b", GONE)):
        write_run(tmp_path / name)
        (tmp_path / name / ".lock").write_text(f"process {pid} on {socket.gethostname()} since 2026\n")
    (write_run(tmp_path / "c") / "error.txt").write_text("ValueError: 3\n\nlog: x\n")
    # trained, and killed while it was measured
    write_run(tmp_path / "d", objektive=1)
    runs = {run.name: run for run in read_runs(tmp_path)}
    assert [run.state for run in runs.values()] == [RUNNING, STOPPED, FAILED, STOPPED]
    assert runs["c"].detail == "ValueError: 3" and runs["b"].detail.endswith(f"resume={tmp_path / 'b'}")


def test_numbers_come_in_their_order() -> None:
    assert sorted(["10", "a", "9", "1e-05", "0.1"], key=natural) == ["1e-05", "0.1", "9", "10", "a"]


@pytest.fixture(scope="module")
def real(composed: Callable[..., DictConfig], small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings, measured, and one that answers other questions."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "images").mkdir()
    questions = [question(folder, number) for number in range(9)]
    write_jsonl(folder / "all.jsonl", questions)
    write_jsonl(folder / "few.jsonl", questions[:4])
    shared = [*small_run, "trainer.max_steps=2", "eval=test_sets", "eval.decode.max_new_tokens=2", "eval.overlays=0"]
    for name, file, alpha in (("0", "all", 0), ("1", "all", 1), ("2", "few", 1)):
        own = [f"eval.data.path={folder / file}.jsonl", f"loss.alpha={alpha}", f"output={folder / 'sweep' / name}"]
        train(composed("train", *shared, *own))
    return folder / "sweep"


def test_real_runs_are_compared_question_by_question(real: Path) -> None:
    """Run 1 is said to be right where it was wrong: in three questions with several images, and in one with one."""
    path = real / "1" / "eval" / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    gained = {"q0", "q1", "q4", "q3"}
    before = {line["id"] for line in lines if line["correct"]}
    assert not gained & before and next(line for line in lines if line["id"] == "q3")["format"] == "single_image"
    write = [json.dumps(line | {"correct": line["correct"] or line["id"] in gained}) for line in lines]
    path.write_text("\n".join(write) + "\n")
    assert main([str(real), "--against", "0"]) == 0
    found = rows(real)
    assert (found["1"]["gained"], found["1"]["lost"]) == ("3", "0")
    # two of three sequences, one of two collages, no inset
    assert float(found["1"]["difference"]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    assert float(found["1"]["difference low"]) < float(found["1"]["difference"])
    metrics = json.loads((real / "1" / "eval" / "metrics.json").read_text())["accuracy"]["multi_image"]
    assert float(found["1"]["accuracy/multi_image high"]) == pytest.approx(metrics["high"])
    # 2 answered other questions
    text = (real / "report.md").read_text()
    assert found["2"]["gained"] == "" and "runs 0 and 2 answered 9 and 4 questions" in text
    page = (real / "report.html").read_text()
    # three runs, and a cell of the map for each
    assert page.count("<polyline") >= 3 and page.count("fill-opacity=") == 3
    assert "No command is known that repeats it" in page and "loss.alpha (down), eval.data.path (across)" in page
