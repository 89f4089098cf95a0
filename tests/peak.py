"""Peak memory of pieces of work, in a process of their own."""

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

def above(work, argument):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    work(argument)
    return peak() - before
"""


def peak_megabytes(code: str, *arguments: str | Path) -> list[float]:
    """What the function `work` that `code` defines takes above what the process had before it, in MiB.

    It is called with one argument after the other, in one process: its imports take longer than its work. What takes
    most comes last, since it may find what those before it have freed.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    program = f"import sys\n{MEASURE}\n{code}\nfor argument in sys.argv[1:]:\n    print(above(work, argument))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.splitlines()]
