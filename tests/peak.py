"""Peak memory of one piece of work, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import re
from pathlib import Path

def peak():
    # of this process since it began or was last reset; ru_maxrss would begin with that of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def above(work):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    work()
    return peak() - before
"""


def peak_megabytes(code: str, *arguments: str | Path) -> float:
    """What the function `work` that `code` defines takes above what the process had before, in MiB."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    command = [sys.executable, "-c", f"{MEASURE}\n{code}\nprint(above(work))", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])
