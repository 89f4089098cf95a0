"""Runs that are killed at all kinds of moments end as those that nobody kills: six kills of benchmarks.kills."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kills import PLACES, drawn

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_runs_end_as_whole_ones(num_processes: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "6", "--processes", str(num_processes)]
    command += ["--folder", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1].endswith(": 0 runs differ")


def test_every_place_has_its_turn_and_the_first_process_alone_writes() -> None:
    kills = [drawn(random.Random(number), 2, number) for number in range(60)]
    assert {kill.place for kill in kills} == set(PLACES) and {kill.rank for kill in kills} == {0, 1}
    assert signal.SIGKILL in {kill.signal for kill in kills}
    assert not [kill for kill in kills if kill.rank and kill.place in ("checkpoint", "metrics", "adapter")]
