"""Processes that work for a command end with it, whatever ended it; where one of them is killed, a sentence says so."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookright.demo import lanes
from lookright.errors import LookRightError

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def waited_for(found: Callable[[], object], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while not found():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_there(pid: int) -> bool:
    """Whether a process is there and runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers_of(pid: int) -> list[int]:
    """Children of a process that spawn started to work for it, not the one that keeps count of semaphores."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.fixture()
def composing(settings: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """generate.py in a group of its own with two workers that compose, as a terminal would start it."""
    given = ["stage=compose", "num_prompts=200000", "num_workers=2", f"output={tmp_path / 'run'}"]
    line = [sys.executable, "generate.py", *settings, *given]
    with (tmp_path / "console.txt").open("w") as console:
        process = subprocess.Popen(line, cwd=ROOT, stdout=console, stderr=console, start_new_session=True)
    written = tmp_path / "run" / "instructions.jsonl"
    try:
        assert waited_for(lambda: written.is_file() and written.stat().st_size > 20_000, 200)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(composing: subprocess.Popen[str]) -> None:
    workers = workers_of(composing.pid)
    assert len(workers) == 2
    composing.kill()
    composing.wait()
    assert waited_for(lambda: not any(map(is_there, workers)), 20)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_workers_too(number: int, code: int, composing: subprocess.Popen[str], tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal, SIGTERM the one that was started."""
    workers = workers_of(composing.pid)
    (os.killpg if number == signal.SIGINT else os.kill)(composing.pid, number)
    assert composing.wait(PATIENCE) == code
    assert waited_for(lambda: not any(map(is_there, workers)), 20)
    told = (tmp_path / "console.txt").read_text()
    assert "Traceback" not in told and "Error" not in told
    name = signal.Signals(number).name
    assert told.strip().splitlines()[-1] == (
        f"{name}: stopped; what is done stays; go on with the same command and output={tmp_path / 'run'}"
    )
    # every line is whole, and its pictures are there
    assert (tmp_path / "run" / "instructions.jsonl").read_text().endswith("}\n")


@pytest.mark.slow
def test_a_killed_worker_is_told(composing: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(workers_of(composing.pid)[0], signal.SIGKILL)
    assert composing.wait(PATIENCE) == 2
    told = (tmp_path / "console.txt").read_text()
    assert "Traceback" not in told and "Error executing" not in told
    assert told.strip().splitlines()[-1] == (
        "error: a process that composes prompts was killed, as the system does where memory runs out: set a lower "
        "num_workers than 2; what is done stays; go on with the same command and output=" + str(tmp_path / "run")
    )


CHILD = (
    "import os, sys, time; from lookright.common import stopping; {call}; print('ready', flush=True); time.sleep(60)"
)
PARENT = """
import os, subprocess, sys, time
process = subprocess.Popen([sys.executable, "-c", sys.argv[1].replace("PARENT", str(os.getpid()))], {options})
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("stopping.end_with(PARENT)", ""),
        ("stopping.stop_with_starter()", "env=os.environ | {'LOOKRIGHT_ENDS_WITH': str(os.getpid())}"),
    ],
)
def test_a_child_that_watches_ends_with_its_parent(call: str, options: str) -> None:
    line = [sys.executable, "-c", PARENT.format(options=options), CHILD.format(call=call)]
    parent = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n" and is_there(child)
    parent.kill()
    parent.wait()
    assert waited_for(lambda: not is_there(child), 20)


def test_the_demo_ends_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one lane fails, or a signal comes, the other's command gets SIGTERM and no further one starts."""
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    (tmp_path / "fails.py").write_text("import time; time.sleep(1); raise SystemExit(3)")
    (tmp_path / "waits.py").write_text("import time; time.sleep(50)")
    (tmp_path / "next.py").write_text("open('came', 'w')")
    started = time.monotonic()
    with pytest.raises(LookRightError, match="fails.py x failed with status 3"):
        lanes.run_chains(
            [[["fails.py", "x"], ["next.py", "x"]], [["waits.py", "x"], ["next.py", "x"]]], tmp_path / "logs"
        )
    assert time.monotonic() - started < 40 and not (tmp_path / "came").exists()
