"""Sides of a comparison as processes that take turns: a drift of the machine meets all of them alike.

Each side is `python -m benchmarks.sides NAME ...`; it says on its standard output that it is ready, runs one step
for each line that it reads, and tells the step's seconds.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MARK = "@@turn "


@dataclass(slots=True, kw_only=True)
class SideResult:
    """Seconds of every counted step, what else the steps told, and the peak resident memory.

    `built_mib` is the peak before the first step: libraries, weights, data. `device_mib` and `reserved_mib` are what
    tensors took at most on a GPU, and what its allocator held for them; None without one. `told` is what a side says
    of itself when it is ready.
    """

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    built_mib: float = 0.0
    peak_mib: float = 0.0
    device_mib: float | None = None
    reserved_mib: float | None = None
    told: dict[str, Any] = field(default_factory=dict)

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

    def ready(self, **told: Any) -> None:
        """Say that the next step can begin, and whatever else is worth telling; wait for it."""
        if torch.cuda.is_initialized():
            # how weights came to be there is no part of a step
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._tell({"built_mib": peak_mib(), "told": told})

    def finish(self, loss: float) -> None:
        """Tell how long the step took, and wait."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._tell({"seconds": time.perf_counter() - self._started, "loss": loss})

    def _tell(self, message: Mapping[str, Any]) -> None:
        print(MARK + json.dumps(message), file=self._out, flush=True)
        if sys.stdin.readline().strip() != "step":
            print(MARK + json.dumps({"peak_mib": peak_mib()} | device_peak()), file=self._out, flush=True)
            raise SystemExit(0)
        self._started = time.perf_counter()


def peak_mib() -> float:
    """Peak resident memory of this process as the operating system counts it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def device_peak() -> dict[str, float]:
    """What tensors took of the GPU since `ready`, and what was held for them; nothing without one."""
    if not torch.cuda.is_initialized():
        return {}
    peaks = {"device_mib": torch.cuda.max_memory_allocated(), "reserved_mib": torch.cuda.max_memory_reserved()}
    return {name: value / 2**20 for name, value in peaks.items()}


def run_in_turns(
    sides: Mapping[str, Sequence[str]],
    steps: int,
    warmup: int = 1,
    *,
    limit: float | None = None,
    errors: Path | None = None,
) -> dict[str, SideResult]:
    """Run `steps` counted steps of every side, one side after the other in each round.

    `sides`: a name for the table and the arguments of `benchmarks.sides`; `limit` in seconds for all of it; `errors`
    is the file that takes what sides print, None for this process's own. Raises RuntimeError where a side dies.
    """
    running = {name: _start(arguments, errors) for name, arguments in sides.items()}
    results = {name: SideResult() for name in sides}
    clock = threading.Timer(limit or 0.0, _kill, [running.values()])
    if limit is not None:
        clock.start()
    try:
        for name, process in running.items():
            ready = _hear(process)
            results[name].built_mib, results[name].told = ready["built_mib"], ready["told"]
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
            for peak, value in _hear(process).items():
                setattr(results[name], peak, value)
            process.wait(timeout=60)
    finally:
        clock.cancel()
        _kill(running.values())
    return results


def _kill(processes: Iterable[subprocess.Popen]) -> None:
    """Whatever still runs, and what it has started."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _start(arguments: Sequence[str], errors: Path | None) -> subprocess.Popen:
    # what our commands set for themselves (`lookright.commands`) is not handed to sides that only read its workload
    own = {} if arguments[0] == "ours" else {"THP_MEM_ALLOC_ENABLE": "0"}
    command = [sys.executable, "-m", "benchmarks.sides", *arguments]
    with nullcontext() if errors is None else errors.open("a") as stderr:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **own},
            start_new_session=True,
        )


def _say(process: subprocess.Popen, word: str) -> None:
    # of one that has died the next answer tells
    with suppress(BrokenPipeError):
        print(word, file=process.stdin, flush=True)


def _hear(process: subprocess.Popen) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(f"{' '.join(process.args)} ended with status {process.wait()}; its errors stand above")
