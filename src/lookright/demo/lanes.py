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
NUM_LANES = 2
"""Commands that run at once, each on one thread."""

Chain = Sequence[list[str]]
"""Command lines of which each needs what the one before it wrote."""


def run_chains(chains: Sequence[Chain], logs: Path) -> None:
    """Run every chain from its first command to its last, as many chains at once as there are lanes.

    Raises LookRightError with the end of the log of the first command that fails.
    """
    with ThreadPoolExecutor(NUM_LANES) as pool:
        for future in [pool.submit(_run_chain, chain, logs) for chain in chains]:
            future.result()


def _run_chain(chain: Chain, logs: Path) -> None:
    for command in chain:
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
