"""Sides of a comparison as processes that take turns: a drift of the machine meets all of them alike.

Each side is `python -m benchmarks.sides NAME ...`; it says on its standard output that it is ready, runs one step
for each line that it reads, and tells the step's seconds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK = "@@turn "


@dataclass(slots=True, kw_only=True)
class SideResult:
    """Seconds of every counted step, what else the steps told, and the peak resident memory.

    `built_mib` is the peak before the first step: libraries, weights, data.
    """

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    built_mib: float = 0.0
    peak_mib: float = 0.0

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


class Turns:
    """A side's end of the conversation: `finish` closes a step and waits until the next one is asked for."""

    def __init__(self) -> None:
        # libraries print to standard output; the conversation keeps the real one
        self._out, sys.stdout = sys.stdout, sys.stderr
        self._started = 0.0

    def ready(self) -> None:
        """Say that the next step can begin, and wait for it."""
        self._tell({"built_mib": peak_mib()})

    def finish(self, loss: float) -> None:
        """Tell how long the step took, and wait."""
        self._tell({"seconds": time.perf_counter() - self._started, "loss": loss})

    def _tell(self, message: Mapping[str, Any]) -> None:
        print(MARK + json.dumps(message), file=self._out, flush=True)
        if sys.stdin.readline().strip() != "step":
            print(MARK + json.dumps({"peak_mib": peak_mib()}), file=self._out, flush=True)
            raise SystemExit(0)
        self._started = time.perf_counter()


def peak_mib() -> float:
    """Peak resident memory of this process as the operating system counts it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def run_in_turns(sides: Mapping[str, Sequence[str]], steps: int, warmup: int = 1) -> dict[str, SideResult]:
    """Run `steps` counted steps of every side, one side after the other in each round.

    `sides`: a name for the table and the arguments of `benchmarks.sides`. Raises RuntimeError where a side dies.
    """
    running = {name: _start(arguments) for name, arguments in sides.items()}
    results = {name: SideResult() for name in sides}
    try:
        for name, process in running.items():
            results[name].built_mib = _hear(process)["built_mib"]
        for number in range(warmup + steps):
            for name, process in running.items():
                _say(process, "step")
                told = _hear(process)
                results[name].losses.append(told["loss"])
                if number >= warmup:
                    results[name].seconds.append(told["seconds"])
                print(f"  {name}: step {number} took {told['seconds']:.2f} s", file=sys.stderr, flush=True)
        for name, process in running.items():
            _say(process, "end")
            results[name].peak_mib = _hear(process)["peak_mib"]
            process.wait(timeout=60)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return results


def _start(arguments: Sequence[str]) -> subprocess.Popen:
    # what our commands set for themselves (`lookright.commands`) is not handed to sides that only read its workload
    own = {} if arguments[0] == "ours" else {"THP_MEM_ALLOC_ENABLE": "0"}
    command = [sys.executable, "-m", "benchmarks.sides", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}
    )


def _say(process: subprocess.Popen, word: str) -> None:
    print(word, file=process.stdin, flush=True)


def _hear(process: subprocess.Popen) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(f"{' '.join(process.args)} ended with status {process.wait()}; its errors stand above")
