"""One reader under damage: what it takes must be right, what it refuses must be refused by name, and soon."""

import random
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from lookright.errors import LookRightError
from tests.fuzz.mutations import mutate

DEADLINE = 20.0
"""Seconds for one case, on a machine that is busy with others."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Finding:
    """A case that a reader does not stand up to."""

    reader: str
    kind: str
    data: bytes
    detail: str


@dataclass(slots=True, frozen=True)
class Reader:
    """`read` takes the path of `file`; `check` holds what it gave against a second reading of the bytes.

    `named`: what a message may name in place of the file. `weight`: its share of cases, beside 1 of most others.
    """

    name: str
    file: str
    seeds: list[bytes] = field(repr=False)
    read: Callable[[Path], Any]
    check: Callable[[bytes, Any], None]
    weight: float = 1.0
    named: str | None = None

    def cases(self, count: int, source: int) -> Iterator[bytes]:
        """The seeds as they are, then damaged ones."""
        rng = random.Random(f"{self.name}/{source}")
        yield from self.seeds
        for _ in range(count - len(self.seeds)):
            yield mutate(rng, rng.choice(self.seeds))

    def run(self, data: bytes, folder: Path) -> tuple[str, Finding | None]:
        """`read` or `refused`, or what is wrong."""
        path = folder / self.file
        path.write_bytes(data)
        try:
            with _deadline(DEADLINE):
                result = self.read(path)
        except LookRightError as error:
            return "refused", self._badly_told(str(error), data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "broken", Finding(
                reader=self.name, kind=f"{type(error).__name__}", data=data, detail=traceback.format_exc(limit=-6)
            )
        try:
            self.check(data, result)
        except Exception as error:
            detail = traceback.format_exc(limit=-4)
            return "broken", Finding(reader=self.name, kind=f"differs: {error!r}"[:200], data=data, detail=detail)
        return "read", None

    def _badly_told(self, message: str, data: bytes) -> Finding | None:
        try:
            message.encode("utf-8")
        except UnicodeEncodeError:
            return Finding(reader=self.name, kind="message cannot be printed", data=data, detail=ascii(message))
        if len(message) > 20_000:
            return Finding(reader=self.name, kind="message is long", data=data, detail=message[:2000])
        if self.file not in message and (self.named is None or self.named not in message):
            return Finding(reader=self.name, kind="message names no file", data=data, detail=message)
        return None


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(slots=True)
class Outcome:
    """Counts of one reader, findings without those that look alike, the slowest case and the growth of memory (MB)."""

    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "refused": 0, "broken": 0})
    findings: dict[str, Finding] = field(default_factory=dict)
    slowest: float = 0.0
    growth: float = 0.0


def fuzz(reader: Reader, count: int, source: int, folder: Path) -> Outcome:
    """Give `reader` so many cases; the same for the same `source`."""
    outcome = Outcome()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in reader.cases(count, source):
        started = time.perf_counter()
        kind, finding = reader.run(data, folder)
        outcome.slowest = max(outcome.slowest, time.perf_counter() - started)
        outcome.counts["broken" if finding is not None else kind] += 1
        if finding is not None:
            outcome.findings.setdefault(_likeness(finding), finding)
    outcome.growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return outcome


def _likeness(finding: Finding) -> str:
    """Equal for findings of one place of the code."""
    places = re.findall(r"File .*, line \d+", finding.detail)
    return f"{finding.kind[:40]} {places[-1] if places else finding.detail[:60]}"
