"""Estimates by format, as metrics.json has them: each format, and all formats with several images."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_order
from lookright.evaluation.intervals import Estimate, RunningMean, mean_of_proportions, wilson

Line = Mapping[str, Any]
"""A line of predictions.jsonl."""
Entry = dict[str, Any]
"""`{value, low, high, num_questions}`, what a metric says of one group in metrics.json."""


def format_of(line: Line) -> str:
    """Return the format of a line; none means a single image."""
    return line["format"] or SINGLE_IMAGE


def is_right(line: Line) -> bool:
    """Return whether the answer of a line is right."""
    return bool(line["correct"])


def groups_of(name: str) -> list[str]:
    """Return the groups that a question of this format counts in."""
    return [name] if name == SINGLE_IMAGE else [name, MULTI_IMAGE]


def several(names: Collection[str]) -> list[str]:
    """Return those of the formats that show several images, in order."""
    return [name for name in sorted(names, key=format_order) if name not in (SINGLE_IMAGE, MULTI_IMAGE)]


def entry(estimate: Estimate, unit: float = 1.0) -> Entry:
    """Return an estimate for metrics.json, in a unit of which 1 is `unit`."""
    return {
        "value": estimate.value * unit,
        "low": estimate.low * unit,
        "high": estimate.high * unit,
        "num_questions": estimate.count,
    }


def percent(estimate: Estimate) -> Entry:
    """Return a share of 1 in percent."""
    return entry(estimate, 100.0)


class Shares:
    """Counts yes and no by format, in constant memory."""

    def __init__(self) -> None:
        self._yes: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def add(self, name: str, told: bool | float | None) -> None:
        """Count one question of format `name`; None is left out."""
        if told is None:
            return
        self._asked[name] += 1
        self._yes[name] += bool(told)

    def result(self) -> dict[str, Entry]:
        """Return shares in percent with Wilson's intervals; the mean of formats weighs them alike."""
        estimates = {name: wilson(self._yes[name], self._asked[name]) for name in sorted(self._asked, key=format_order)}
        if several(estimates):
            estimates[MULTI_IMAGE] = mean_of_proportions([estimates[name] for name in several(estimates)])
        return {name: percent(estimate) for name, estimate in estimates.items()}


class Means:
    """Means by format and over all questions with several images, in constant memory."""

    def __init__(self) -> None:
        self._means: dict[str, RunningMean] = defaultdict(RunningMean)

    def add(self, name: str, value: float | None) -> None:
        """Take one question of format `name` in; None is left out."""
        if value is not None:
            for group in groups_of(name):
                self._means[group].add(value)

    def mean(self, group: str) -> float | None:
        """Return the mean of a group, None where no value is known."""
        return self._means[group].mean if group in self._means else None

    def result(self) -> dict[str, Entry]:
        """Return means with normal intervals, in the unit of the values."""
        return {name: entry(self._means[name].estimate()) for name in sorted(self._means, key=format_order)}
