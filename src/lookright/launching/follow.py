"""A launch while it runs and when it has ended: a live table or plain lines, and every failure by its name."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lookright.errors import LookRightError
from lookright.launching import slurm
from lookright.launching.jobs import (
    ENDED,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Launch,
    Status,
    is_gone,
    launches,
    shown,
)

PATIENCE = 3
"""Looks at a job that is gone without a word, before it counts as lost: its files may come late over a network."""
ROWS = 30
"""Of the table on a terminal; more jobs are counted."""
LIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "STOPPED",
    "SIGNALING",
)
"""States of SLURM after which a job may still run."""
Queue = Mapping[int, tuple[str, str]]
"""SLURM's word for each job by its number, and why it waits."""


class JobsFailed(LookRightError):
    """Some jobs of a sweep failed; the message names each. `jobs` are their numbers and what is known of why."""

    def __init__(self, message: str, jobs: dict[int, str]) -> None:
        super().__init__(message)
        self.jobs = jobs


@dataclass(slots=True, frozen=True)
class View:
    """One job as it is shown: its state, what more there is to say, and whether nothing more comes of it by itself."""

    state: str
    detail: str = ""
    over: bool = False


class Watch:
    """Looks at the jobs of a launch; one that was looked for `patience` times on end in vain counts as lost."""

    def __init__(self, launch: Launch, patience: int = PATIENCE) -> None:
        self.launch, self.patience = launch, patience
        self.ids = launch.slurm_ids()
        self._gone: Counter[int] = Counter()

    def look(self) -> dict[int, View]:
        """Every job as it is now."""
        queue = slurm.states(self.ids) if self.ids else {}
        return {job.num: self._view(job.num, self.launch.status(job.num), queue) for job in self.launch.jobs}

    def _view(self, num: int, status: Status | None, queue: Queue | None) -> View:
        if status is not None and status.state in ENDED:
            return View(status.state, status.error or "", over=True)
        state = WAITING if status is None else status.state
        if queue is None:
            return View(state, "SLURM does not answer")
        live, why = _in_queue(status, queue.get(num)) if self.ids else _on_machine(self.launch, status)
        if live is not None:
            # a job that SLURM queued again is not gone, however often
            del self._gone[num]
            return live
        self._gone[num] += 1
        over = self._gone[num] >= self.patience
        if over:
            # a job that was stopped goes on where it is told to, one that this machine never began has lost nothing
            state = FAILED if state == RUNNING or (state == WAITING and self.ids) else STOPPED
        return View(state, why, over)


def _in_queue(status: Status | None, queued: tuple[str, str] | None) -> tuple[View | None, str]:
    """How a job of SLURM is that has not ended by its own word; None where SLURM says that it will not run again."""
    if queued is None:
        return None, "SLURM knows it no more, and it did not end by itself"
    word, reason = queued
    if word == "PENDING":
        again = [] if status is None else [f"start {status.starts + 1}"]
        return View(WAITING, ", ".join([*again, *([] if reason == "None" else [reason])])), ""
    if word in LIVE:
        return View(RUNNING, "" if status is None else status.where), ""
    return None, f"SLURM: {word.lower().replace('_', ' ')}"


def _on_machine(launch: Launch, status: Status | None) -> tuple[View | None, str]:
    """The same of one machine; None where its supervisor is gone, or the launcher that was to begin it."""
    if status is None or status.state == WAITING:
        gone = is_gone(launch.host, launch.pid)
        word = "never begun" if status is None else "not begun again"
        return (None, f"{word}: its launcher is gone") if gone else (View(WAITING), "")
    if status.state == STOPPED:
        return None, "stopped by a signal; it goes on with resume= or lookright.launching --go-on"
    if is_gone(status.where, status.pid):
        return None, "its process is gone, and it did not end by itself"
    return View(RUNNING, status.where), ""


def follow(launch: Launch, poll: float, stream: TextIO | None = None, over: Callable[[], bool] = lambda: False) -> None:
    """Show the jobs until nothing more comes of any. Raises JobsFailed naming every one that did not finish.

    `over` tells whether no more will be started on this machine; what is in SLURM's queue, SLURM starts.
    """
    stream = stream or sys.stdout
    watch = Watch(launch)
    screen = _Screen(launch, watch.ids, stream)
    while True:
        views = watch.look()
        screen.show(views)
        if all(view.over for view in views.values()) or (not watch.ids and over() and not _open(views)):
            break
        time.sleep(poll)
    screen.close(views)
    failed = failures(launch, views)
    if failed:
        unfinished = {num: view.detail or view.state for num, view in views.items() if view.state != FINISHED}
        raise JobsFailed("\n".join(failed), unfinished)


def follow_out(sweep: Path, numbers: Collection[int], poll: float = 5) -> None:
    """Follow what launchers that are gone left behind of jobs, by their numbers, until nothing of it goes on."""
    for folder in launches(sweep):
        launch = Launch.load(folder)
        if any(job.num in numbers for job in launch.jobs):
            with suppress(JobsFailed):
                follow(launch, poll)


def _open(views: dict[int, View]) -> bool:
    """Whether any job runs, or may be found lost yet."""
    return any(view.state in (RUNNING, STOPPED) and not view.over for view in views.values())


def failures(launch: Launch, views: dict[int, View]) -> list[str]:
    """A headline, a line for each job that did not finish, and on one machine how those go on that can."""
    ids = launch.slurm_ids()
    lines = []
    for job in launch.jobs:
        view = views[job.num]
        if view.state != FINISHED:
            name = f" ({ids[job.num]})" if ids else ""
            first = view.detail.strip().split("\n")[0] or ("never begun" if view.state == WAITING else view.state)
            lines.append(f"job {job.num}{name} {shown(job.swept)}: {first}; log: {launch.log(job.num)}")
    can_go_on = not ids and any(view.state in (STOPPED, WAITING) for view in views.values())
    how = [f"go on: python -m lookright.launching {launch.sweep} --go-on"] if can_go_on else []
    return [f"{len(lines)} of {len(launch.jobs)} jobs did not finish", *lines, *how] if lines else []


class _Screen:
    """Where the jobs are shown."""

    def __init__(self, launch: Launch, ids: dict[int, str], stream: TextIO) -> None:
        self.launch = launch
        self.ids = ids
        self.stream = stream
        self.live = stream.isatty()
        self._before: dict[int, View] = {}
        self._height = 0

    def show(self, views: dict[int, View]) -> None:
        """The whole table on a terminal, else a line for each job that changed."""
        if self.live:
            lines = self._table(views)
            # up to where the last table began, and each line cut to the width
            up = f"\x1b[{self._height}A" if self._height else ""
            width = shutil.get_terminal_size().columns
            self.stream.write(up + "".join(f"\x1b[2K{line[: width - 1]}\n" for line in lines) + "\x1b[J")
            self._height = len(lines)
        else:
            clock = time.strftime("%H:%M:%S")
            for num, view in views.items():
                before = self._before.get(num)
                if before is None or before.state != view.state:
                    self.stream.write(f"{clock} {self._line(num, view)}\n")
        self._before = views
        self.stream.flush()

    def close(self, views: dict[int, View]) -> None:
        """A last line with the counts."""
        self.stream.write(f"{_counts(views)}; {self.launch.folder}\n")
        self.stream.flush()

    def _table(self, views: dict[int, View]) -> list[str]:
        order: Sequence[str] = (FAILED, RUNNING, STOPPED, WAITING, FINISHED)
        numbers = sorted(views, key=lambda num: (order.index(views[num].state), num))[:ROWS]
        lines = [self._line(num, views[num]) for num in sorted(numbers)]
        return [*lines, _counts(views)]

    def _line(self, num: int, view: View) -> str:
        name = f" {self.ids[num]}" if self.ids else ""
        detail = f" ({view.detail.strip().splitlines()[0]})" if view.detail.strip() else ""
        return f"#{num}{name} {view.state}{detail} {shown(self.launch.job(num).swept)}"


def _counts(views: dict[int, View]) -> str:
    """`3 finished, 1 failed`."""
    counts = Counter(view.state for view in views.values())
    return ", ".join(
        f"{counts[state]} {state}" for state in (FINISHED, RUNNING, WAITING, STOPPED, FAILED) if counts[state]
    )
