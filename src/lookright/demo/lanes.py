"""Running command lines side by side, one thread each, with their output in log files."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lookright.errors import LookRightError

ROOT = Path(__file__).parents[3]


def run_lanes(lanes: Sequence[Sequence[list[str]]], logs: Path) -> None:
    """Run each lane's commands one after the other, all lanes at once.

    Raises LookRightError with the end of the log of the first command that fails.
    """
    with ThreadPoolExecutor(len(lanes)) as pool:
        for future in [pool.submit(_run_lane, lane, logs) for lane in lanes]:
            future.result()


def _run_lane(lane: Sequence[list[str]], logs: Path) -> None:
    for command in lane:
        run_command(command, logs)


def run_command(command: list[str], logs: Path) -> None:
    """Run `python COMMAND` from the project's folder, and say when it began and how long it took."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{time.time_ns()}.log"
    print(f"$ python {' '.join(command)}", flush=True)
    started = time.perf_counter()
    # small matrices: one thread a process is faster than two, and leaves the other core to the other lane
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    with log.open("w") as file:
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise LookRightError(f"python {' '.join(command)} failed with status {code}:\n{log.read_text()[-3000:]}")
    print(f"  {time.perf_counter() - started:.0f} s  {command[0]} {command[1]}", flush=True)
