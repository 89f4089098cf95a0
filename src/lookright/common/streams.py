"""Append-only JSON-lines files that survive a kill, and progress that tells rate and remaining time."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tqdm.auto import tqdm

from lookright.records.records import cut_torn_line, numbered_lines, parse_line

Item = TypeVar("Item")
Result = TypeVar("Result")

PORTION = 8
"""Items that a thread takes at a time."""


class AppendOnly:
    """A `.jsonl` file with an `id` in each line. A torn last line, as a kill leaves it, is cut on opening.

    `done` holds the ids that are in the file. A line is on its way to the disk when `add` returns.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        cut_torn_line(path)
        self.path = path
        self.done = {parse_line(line)["id"] for _, line in numbered_lines(path)}
        self._file = path.open("a", encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append one record; an id that is there already is a defect of the caller."""
        assert line["id"] not in self.done, f"{line['id']} was written before"
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        self.done.add(line["id"])

    def __enter__(self) -> "AppendOnly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a JSON-lines file as a dictionary."""
    for _, line in numbered_lines(path):
        yield parse_line(line)


def progress(items: Iterable[Item], total: int, title: str, done: int = 0, delay: float = 0.0) -> Iterator[Item]:
    """Items as they come, with a bar: how many of `total`, `done` of them earlier, rate, remaining time.

    What is over within `delay` seconds shows none.
    """
    yield from tqdm(items, total=total, initial=done, desc=title, dynamic_ncols=True, mininterval=0.5, delay=delay)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items, computed by as many threads as there are processors, 8 at most.

    For work that mostly waits, or decodes pictures. Items are taken as results are, a bounded number ahead.
    """
    num_threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    pool = ThreadPoolExecutor(num_threads)
    pending: deque[Future[list[Result]]] = deque()
    try:
        for portion in batches(items, PORTION):
            pending.append(pool.submit(lambda portion=portion: [function(item) for item in portion]))
            if len(pending) > 4 * num_threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Lines into a file that is there whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in order, the last one shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
