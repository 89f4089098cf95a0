"""One job under its supervisor: exit codes, words of failure, signals, starting again; SLURM's programs are fakes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lookright.launching.jobs import GO_ON, Launch, Resources, Status
from lookright.launching.supervise import Supervisor

Make = Callable[..., Launch]


def start(launch: Launch, **environment: str) -> "subprocess.Popen[bytes]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name != GO_ON}
    with launch.log(0).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lookright.launching.supervise", str(launch.folder), "0"],
            env=kept | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def status(launch: Launch) -> Status:
    found = launch.status(0)
    assert found is not None
    return found


@pytest.fixture()
def programs(tmp_path: Path) -> dict[str, str]:
    """A PATH on which scontrol and scancel write down what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("scontrol", "scancel"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path / "asked"}\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}


def test_a_job_that_finishes(launch: Make) -> None:
    made = launch(["ok", "x=1"])
    assert start(made).wait(60) == 0
    assert (status(made).state, status(made).exit_code, status(made).starts) == ("finished", 0, 1)
    assert "here: ok x=1" in made.log(0).read_text()
    # what is queued again after its end does nothing
    before = made.log(0).read_text()
    assert start(made).wait(60) == 0
    assert made.log(0).read_text() == before and status(made).starts == 1


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [
        ("refused", 2, "data.path=x: no such file"),
        ("traceback", 1, "RuntimeError: something broke"),
        ("killed", 137, "killed by SIGKILL, as by the kernel where memory is short"),
    ],
)
def test_a_failure_is_told_in_log_status_and_folder(how: str, code: int, error: str, launch: Make) -> None:
    made = launch([how])
    assert start(made).wait(60) == code
    assert (status(made).state, status(made).exit_code, status(made).error) == ("failed", code, error)
    assert f"launcher: job 0 failed: {error}" in made.log(0).read_text()
    text = made.job(0).error_file.read_text()
    assert text.startswith(error) and str(made.log(0)) in text
    assert ("Traceback" in text) == (how == "traceback")
    if how == "killed":
        assert "here: killed" in text, "the end of the log"


def test_the_first_error_of_several_ranks_is_told(launch: Make) -> None:
    made = launch(["ok"], resources=Resources(tasks_per_node=2))
    records = {
        0: '{"error": "killed by a peer", "details": "", "rank": 0, "time": 2}',
        1: '{"error": "no such file", "details": "", "rank": 1, "time": 1}',
    }
    for rank, record in records.items():
        (made.folder / f"0.rank{rank}.error").write_text(record)
    assert Supervisor(made, 0)._word(1) == ("rank 1: no such file", "")


def test_ranks_that_were_stopped_for_a_failed_one_are_no_stop(
    launch: Make, programs: dict[str, str], tmp_path: Path
) -> None:
    """srun says 143 of them all."""
    srun = tmp_path / "bin" / "srun"
    record = '{"error": "no such file", "details": "", "rank": 1, "time": 1}'
    srun.write_text(f"#!/bin/sh\necho '{record}' > {tmp_path}/sweep/launch/1/0.rank1.error\nexit 143\n")
    srun.chmod(0o755)
    made = launch(["ok"], resources=Resources(tasks_per_node=2))
    assert start(made, **programs).wait(60) == 1
    assert (status(made).state, status(made).error) == ("failed", "rank 1: no such file")


@pytest.mark.parametrize("code", ["143", "0"])
def test_a_time_limit_queues_the_job_again(code: str, launch: Make, programs: dict[str, str], tmp_path: Path) -> None:
    """Whether the command leaves with 143 or, as Lightning's exit on SIGTERM, with 0."""
    made = launch(["waits", code, str(tmp_path / "begun")], max_requeues=1, grace=60)
    process = start(made, **programs)
    until(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 143
    assert status(made).state == "stopped"
    assert (tmp_path / "asked").read_text() == "scontrol requeue 77\n"
    assert "the time limit is near" in made.log(0).read_text()
    # the second start knows its folder
    (tmp_path / "begun").unlink()
    process = start(made, **programs)
    until(tmp_path / "begun")
    assert status(made).starts == 2
    assert f"before {made.job(0).folder}" in made.log(0).read_text()
    # and its limit is the last one
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 143
    assert status(made).state == "failed"
    error = "it reached its time limit in start 2, and hydra.launcher.max_requeues is 1; set it higher"
    assert (status(made).error or "").startswith(error)


def test_a_job_that_does_not_stop_ahead_of_its_limit_is_killed_and_queued_again(
    launch: Make, programs: dict[str, str], tmp_path: Path
) -> None:
    made = launch(["deaf", "0", str(tmp_path / "begun")], max_requeues=1, grace=16)
    process = start(made, **programs)
    until(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 143
    assert (tmp_path / "asked").read_text() == "scontrol requeue 77\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_from_outside_queues_nothing(
    number: signal.Signals, launch: Make, programs: dict[str, str], tmp_path: Path
) -> None:
    made = launch(["waits", "143", str(tmp_path / "begun")], max_requeues=9)
    process = start(made, **programs)
    until(tmp_path / "begun")
    process.send_signal(number)
    assert process.wait(60) == 143
    assert status(made).state == "stopped" and not (tmp_path / "asked").exists()


def test_an_error_while_it_stops_is_a_failure(launch: Make, programs: dict[str, str], tmp_path: Path) -> None:
    made = launch(["waits", "3", str(tmp_path / "begun")], max_requeues=9, grace=60)
    process = start(made, **programs)
    until(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 3
    assert status(made).state == "failed" and not (tmp_path / "asked").exists()


def test_a_new_start_forgets_the_error_of_the_last(launch: Make) -> None:
    made = launch(["refused"])
    assert start(made).wait(60) == 2
    (made.folder.parent.parent.parent / "path" / "a_command.py").write_text("")
    assert start(made).wait(60) == 0
    assert not made.job(0).error_file.exists() and status(made).error is None


def test_ranks_are_started_by_srun_within_a_job_alone(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = launch(["ok"], resources=Resources(nodes=2, tasks_per_node=4, gpus_per_node=4), cpus_per_task=6)
    work = [sys.executable, "-m", "lookright.launching.work", str(made.folder), "0"]
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert Supervisor(made, 0).command() == work
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    srun = ["srun", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=6"]
    assert Supervisor(made, 0).command() == [*srun, *work]
