"""Append-only JSON-lines files that survive a kill, and progress that tells rate and remaining time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

PORTION = 8
"""Items that a thread takes at a time."""


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
            pending.append(pool.submit(_each, function, portion))
            if len(pending) > 4 * num_threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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


def _each(function: Callable[[Item], Result], portion: list[Item]) -> list[Result]:
    return [function(item) for item in portion]
