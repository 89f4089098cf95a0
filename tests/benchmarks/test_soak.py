"""What rises from round to round is found, and a short soak of the commands is flat in all that is counted."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import Held, held, risen, slope, soak

ROOT = Path(__file__).parents[2]
FLAT = Held(mib=500, files=20, threads=4, children=0, temporary=0)


def test_a_slope_by_hand() -> None:
    assert slope([1, 2, 3, 4]) == 1 and slope([2, 2, 2]) == 0 and slope([0, 1, 0, 1]) == pytest.approx(0.2)


def test_what_rises_is_told() -> None:
    noisy = [replace(FLAT, mib=500 + number % 3, files=20 + number % 2) for number in range(12)]
    assert risen(noisy, 1.0) == []
    leaking = [replace(FLAT, mib=500 + 2 * number, threads=4 + number // 6, files=20 + number) for number in range(12)]
    assert risen(leaking, 1.0) == [
        "memory rises by 2.00 MiB a round, more than 1",
        "files rise from 22 to 31",
        "threads rise from 4 to 5",
    ]


def test_leaks_are_counted(tmp_path: Path) -> None:
    opened, kept = [], []

    def leak(number: int) -> None:
        opened.append((tmp_path / f"{number}").open("w"))
        # above every threshold under which malloc hands out again what others freed
        kept.append(b"x" * (40 * 2**20))

    found = soak(0, 0, leak, tmp_path)
    for file in opened:
        file.close()
    assert [line.split()[0] for line in risen(found, 1.0)] == ["memory", "files", "temporary"]
    assert held(tmp_path).files == found[0].files - 1


@pytest.mark.slow
def test_a_short_soak() -> None:
    """Counts are judged; memory still settles within so few rounds."""
    line = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0", "--warm", "2", "--mib-a-round", "20"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "flat"
