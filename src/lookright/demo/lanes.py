"""Running command lines side by side, one thread each, with their output in log files."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from lookright.common.stopping import ENDS_WITH
from lookright.config.folders import HOME, IN_CHECKOUT
from lookright.errors import LookRightError

ROOT = HOME if IN_CHECKOUT else Path.cwd()
"""Where the commands run and the results go: the checkout, or without one the folder that the user is in."""
NUM_LANES = 2
"""Commands that run at once, each on one thread."""

EXIT_ENDED = 143
"""Status of a command that was not started any more."""

Chain = Sequence[list[str]]
"""Command lines of which each needs what the one before it wrote."""


def run_chains(chains: Sequence[Chain], logs: Path) -> None:
    """Run every chain from its first command to its last, as many chains at once as there are lanes.

    Raises LookRightError with the end of the log of the first command that fails.
    """
    running = _Running()
    with ThreadPoolExecutor(NUM_LANES) as pool:
        try:
            for future in [pool.submit(_run_chain, chain, logs, running) for chain in chains]:
                future.result()
        except BaseException:
            # a signal, too: no command stays behind the one that started it
            running.end()
            raise


class _Running:
    """The commands that run; after `end` none starts any more."""

    def __init__(self) -> None:
        self._lock, self._processes, self._over = Lock(), set[subprocess.Popen[bytes]](), False

    def run(self, line: list[str], **options: Any) -> int:
        """Run a command line; returns its status."""
        with self._lock:
            if self._over:
                return EXIT_ENDED
            process = subprocess.Popen(line, **options)
            self._processes.add(process)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        return code

    def end(self) -> None:
        """SIGTERM to those that run."""
        with self._lock:
            self._over = True
            for process in self._processes:
                process.terminate()


def _run_chain(chain: Chain, logs: Path, running: _Running) -> None:
    for command in chain:
        run_command(command, logs, running)


def run_command(command: list[str], logs: Path, running: _Running) -> None:
    """Run `python COMMAND` in ROOT, and say when it began and how long it took."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{time.time_ns()}.log"
    print(f"$ python {' '.join(command)}", flush=True)
    started = time.perf_counter()
    # small matrices: one thread a process is faster than two, and leaves the other core to the other lane
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1", ENDS_WITH: str(os.getpid())}
    # without a checkout there is no script, but the module that it calls
    script = [command[0]] if IN_CHECKOUT else ["-m", f"lookright.commands.{command[0].removesuffix('.py')}"]
    line = [sys.executable, *script, *command[1:]]
    with log.open("w") as file:
        code = running.run(line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if code:
        raise LookRightError(f"python {' '.join(command)} failed with status {code}:\n{log.read_text()[-3000:]}")
    print(f"  {time.perf_counter() - started:.0f} s  {command[0]} {command[1]}", flush=True)
