"""Jobs as processes of this machine: how many at once, on which GPUs, stopped, and what is told of failures."""

import io
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lookright.common.stopping import Interrupted
from lookright.errors import ConfigError, Stopped
from lookright.launching import local, plugin
from lookright.launching.__main__ import main
from lookright.launching.follow import JobsFailed, follow
from lookright.launching.jobs import Launch, Resources, Status, is_gone
from lookright.launching.local import LocalPool, begun_again, check_fit, environment_of

Make = Callable[..., Launch]


def run(launch: Launch, parallel: int) -> tuple[str, str]:
    """What is shown, and the error at the end."""
    pool, shown, error = LocalPool(launch, parallel), io.StringIO(), ""
    pool.start()
    try:
        follow(launch, 0.1, shown, pool.over)
    except JobsFailed as failed:
        error = str(failed)
    return shown.getvalue(), error


def test_all_run_and_every_failure_is_named(launch: Make) -> None:
    made = launch(["ok"], ["refused"], ["traceback"], ["ok"])
    shown, error = run(made, 2)
    assert shown.splitlines()[-1] == f"2 finished, 2 failed; {made.folder}"
    assert error.splitlines() == [
        "2 of 4 jobs did not finish",
        f"job 1 refused: data.path=x: no such file; log: {made.log(1)}",
        f"job 2 traceback: RuntimeError: something broke; log: {made.log(2)}",
    ]
    states = [status.state for num in range(4) if (status := made.status(num))]
    assert states == ["finished", "failed", "failed", "finished"]


def test_no_more_than_told_run_at_once(launch: Make) -> None:
    made = launch(*[["naps"]] * 4)
    pool = LocalPool(made, 2)
    pool.start()
    most = 0
    while not pool.over():
        most = max(most, len(pool._running))
        time.sleep(0.02)
    assert most == 2
    assert all(status.state == "finished" for num in range(4) if (status := made.status(num)))


def test_each_job_has_gpus_of_its_own(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    made = launch(*[["naps"]] * 4, resources=Resources(tasks_per_node=2, gpus_per_node=2))
    pool = LocalPool(made, 4)
    pool.start()
    most = 0
    while not pool.over():
        most = max(most, len(pool._running))
        time.sleep(0.02)
    assert most == 2
    used = [re.search(r"GPUs (\S+)", made.log(num).read_text()) for num in range(4)]
    assert {found[1] for found in used if found} == {"3,5", "6,7"}
    assert sorted(pool._free) == ["3", "5", "6", "7"]


def test_a_stop_reaches_jobs_that_run_and_starts_no_more(launch: Make, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    made = launch(["waits", "143", str(begun)], ["ok"])
    pool = LocalPool(made, 1)
    pool.start()
    while not begun.exists():
        time.sleep(0.05)
    pool.stop()
    first = made.status(0)
    assert first is not None and first.state == "stopped" and made.status(1) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_launcher_says_what_is_left(
    number: int, code: int, launch: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    made = launch(["waits", "143", str(begun)], ["later"])

    def interrupted(*_: object, **__: object) -> None:
        while not begun.exists():
            time.sleep(0.05)
        raise Interrupted(number)

    monkeypatch.setattr(local, "follow", interrupted)
    with pytest.raises(Stopped) as stopped:
        plugin.LocalJobs().run(made)
    assert stopped.value.exit_code == code
    assert str(stopped.value).splitlines() == [
        f"{signal.Signals(number).name}: stopped; 2 of 2 jobs did not finish",
        f"job 0 waits: stopped by a signal; it goes on with resume= or lookright.launching --go-on; log: {made.log(0)}",
        f"job 1 later: never begun; log: {made.log(1)}",
        f"go on: python -m lookright.launching {made.sweep} --go-on",
    ]


def test_a_job_that_cannot_begin_is_a_failure(launch: Make) -> None:
    made = launch(["ok"])
    (made.folder / "jobs.json").write_text("{}")
    shown, error = run(made, 1)
    assert re.search("job 0 ok: did not start, exit code 1: .*ConfigError: .*jobs.json: folder: ", error)


def test_what_a_killed_launcher_never_began_is_told(launch: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = replace(launch(["ok"], ["later"]), host=socket.gethostname(), pid=2**22 + 1)
    made.save()
    made.set_status(0, Status(state="finished"))
    assert main([str(made.sweep)]) == 1
    assert f"job 1 later: never begun: its launcher is gone; log: {made.log(1)}" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nowhere holds no launch"):
        main(["nowhere"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m lookright.launching [-h] [--go-on]" in capsys.readouterr().out


def test_a_job_that_was_stopped_is_none_that_failed(launch: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = launch(["a"])
    made.set_status(0, Status(state="stopped", exit_code=143))
    assert main([str(made.sweep)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert (
        told[-4] == f"1 stopped; {made.folder}"
        and "job 0 a: stopped by a signal; it goes on with resume= or lookright.launching --go-on" in told[-2]
    )


def as_left_behind(made: Launch, *states: str | None) -> Launch:
    """The launch of a process that is gone, its jobs in these states."""
    left = replace(made, host=socket.gethostname(), pid=2**22 + 1)
    left.save()
    for num, state in enumerate(states):
        if state is not None:
            left.set_status(num, Status(state=state, where=left.host, pid=left.pid))
    return left


def test_what_did_not_finish_goes_on(launch: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped, killed, failed and never begun; what finished is left alone, and nothing is over between two jobs."""
    waits = ["waits_once", "143", str(tmp_path / "begun")]
    made = as_left_behind(
        launch(["ok"], waits, ["naps"], ["refused"], ["ok"]), "finished", "stopped", "running", "failed", None
    )
    assert main([str(made.sweep), "--go-on"]) == 1
    ended = [status for num in range(5) if (status := made.status(num))]
    assert [status.state for status in ended] == ["finished", "finished", "finished", "failed", "finished"]
    assert [status.starts for status in ended] == [1, 2, 2, 2, 1]
    folders = [re.search("^before (.*)$", made.log(num).read_text(), re.MULTILINE) for num in range(1, 5)]
    gone_on = [None if found is None else found[1] for found in folders]
    assert gone_on == [*(str(made.sweep / str(num)) for num in (1, 2, 3)), "None"] and not made.log(0).exists()
    told = capsys.readouterr().out
    assert "1 of 5 jobs did not finish" in told and "job 3 refused: data.path=x: no such file" in told
    # by then the launch is that of this process, which is there
    with pytest.raises(ConfigError, match=f"at work, or may be: its launcher is process {os.getpid()} on"):
        main([str(made.sweep), "--go-on"])


def test_what_waits_to_go_on_is_lost_with_its_launcher(launch: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = as_left_behind(launch(["a"]), "waiting")
    assert main([str(made.sweep)]) == 1
    assert "job 0 a: not begun again: its launcher is gone" in capsys.readouterr().out


def test_a_job_that_a_later_launch_has_is_not_begun_twice(
    launch: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = as_left_behind(launch(["ok"], ["ok"]), "stopped", "stopped")
    later = replace(first, folder=first.folder.with_name("2"), jobs=first.jobs[1:])
    later.folder.mkdir()
    as_left_behind(later, None, "finished")
    assert main([str(first.sweep), "--go-on"]) == 0
    states = [status.state for num in range(2) if (status := first.status(num))]
    assert states == ["finished", "stopped"] and not first.log(1).exists() and not later.log(1).exists()
    capsys.readouterr()
    assert main([str(first.sweep)]) == 0


def test_what_cannot_go_on_here_is_refused(launch: Make) -> None:
    made = as_left_behind(launch(["a"]), "stopped")
    with pytest.raises(ConfigError, match="--parallel 0; set 1 or more"):
        main([str(made.sweep), "--go-on", "--parallel", "0"])
    (made.folder / "slurm.json").write_text('{"0": "7_0"}')
    with pytest.raises(ConfigError, match="is on SLURM, which begins its jobs again; leave out --go-on"):
        begun_again(made, made.jobs)
    (made.folder / "slurm.json").unlink()
    made.set_status(0, Status(state="running", where=socket.gethostname(), pid=os.getpid()))
    with pytest.raises(ConfigError, match="is at work, or may be"):
        begun_again(made, made.jobs)
    assert made.status(0).state == "running"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.json", '{"fol'),
        ("jobs.json", '{"folder": "x", "jobs": [3]}'),
        ("0.json", '{"state": "running", "starts": [], "pid": 1}'),
        ("slurm.json", "[1]"),
    ],
)
def test_damaged_files_of_a_launch_are_named(name: str, text: str, launch: Make) -> None:
    made = launch(["a"])
    (made.folder / name).write_text(text)
    with pytest.raises(ConfigError, match=f"^{made.folder / name}: .*move the folder of this launch away"):
        main([str(made.sweep)])


def test_a_sweep_that_was_moved_has_its_jobs_where_it_lies_now(launch: Make, tmp_path: Path) -> None:
    made = launch(["a"], ["b"])
    replace(made, jobs=[made.jobs[0], replace(made.jobs[1], folder="/elsewhere/1")]).save()
    made.folder.parents[1].rename(tmp_path / "moved")
    found = Launch.load(tmp_path / "moved" / "launch" / "1")
    assert [job.folder for job in found.jobs] == [str(tmp_path / "moved" / "0"), "/elsewhere/1"]
    assert found.log(0) == tmp_path / "moved" / "launch" / "1" / "0.log"


def test_a_process_is_known_to_be_gone_on_any_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /proc, too."""
    monkeypatch.setattr(Path, "exists", lambda path: False)
    here = socket.gethostname()
    assert not is_gone(here, os.getpid()) and not is_gone(here, 1) and not is_gone("another", 2**22 + 1)
    assert is_gone(here, 2**22 + 1) and is_gone(here, 0) and is_gone(here, 2**70)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(nodes=2), "job 0: trainer.num_nodes=2; this is one machine: set trainer.num_nodes=1"),
        (Resources(gpus_per_node=2), "job 0 needs 2 GPUs and 1 are visible"),
    ],
)
def test_what_one_machine_cannot_run(resources: Resources, message: str, launch: Make) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fit(launch(["ok"], resources=resources).jobs, 1)


def test_ranks_are_not_taken_from_a_slurm_job_around() -> None:
    around = {"SLURM_NTASKS": "8", "HOME": "/h", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert environment_of(around, ["1"]) == {"HOME": "/h", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment_of({"SLURM_NTASKS": "8", "HOME": "/h"}, []) == {"HOME": "/h"}
