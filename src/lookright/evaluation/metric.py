"""What a metric of evaluation is: from one answer to its place in files, tables and comparisons.

`conf/metrics/` names metrics by their `_target_`. A metric that tells one thing of each question is a `Share` (yes or
no) or a `Mean` (a number) with a name, a title and one method; everything else follows. `Metric` is for those that
count something of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lookright.answering.answerer import ScoredAnswer
from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_title
from lookright.errors import ConfigError
from lookright.evaluation.groups import Line, Means, Shares, format_of
from lookright.evaluation.rules import Rules
from lookright.records.pictures import Pictures
from lookright.types import Prompt


@dataclass(slots=True, frozen=True, kw_only=True)
class Column:
    """A column of an evaluation's first table: for each group, `field` of the entry under `key` in metrics.json.

    A `value` has its interval beside it. `highest` is the end of the axis where it is drawn as a chart too, which
    is then called `chart`. A column of which no group knows anything is left out.
    """

    key: str
    title: str
    field: str = "value"
    digits: int = 1
    chart: str = ""
    unit: str = "%"
    highest: float | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class Breakdown:
    """A table of its own on the page of an evaluation.

    `rows` are by group, or by what `label` calls them; a cell is an entry of metrics.json, a count, a text, or None.
    `curve` has points of [0, 1] that are drawn beside the diagonal, `axes` what lies along x, and the chart's title.
    """

    title: str
    lead: str = ""
    head: list[str]
    rows: dict[str, list[Any]]
    curve: list[tuple[float, float]] = field(default_factory=list)
    axes: tuple[str, str] = ("", "")


@dataclass(slots=True, frozen=True, kw_only=True)
class Measure:
    """What runs are compared by, question by question: `told` of a line of predictions.jsonl, None where unknown.

    `share`: yes and no, in percent, with the paired difference of two runs and its exact test; else a mean in its own
    unit. `good` is 1 where more of it is better, -1 where less is, 0 where neither. `of_errors`: shown as counts
    beside the number of wrong answers, for formats with several images; `several` keeps to those formats, too.
    `short` is its title in a terminal, `highest` the end of its axis in a chart (None: no chart).
    """

    key: str
    title: str
    told: Callable[[Line], bool | float | None]
    share: bool = True
    good: int = 1
    of_errors: bool = False
    several: bool = False
    digits: int = 1
    short: str = ""
    highest: float | None = None

    @property
    def unit(self) -> str:
        """Percent, or nothing."""
        return "%" if self.share else ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Beside:
    """A value to hold a measure against, such as chance; `of` takes the lines of one run on one group."""

    measure: str
    key: str
    title: str
    of: Callable[[Sequence[Line]], float | None]


class Metric(ABC):
    """A metric of evaluation.

    `line` adds fields to a line of predictions.jsonl; `add` takes each line in, also one that an earlier, killed run
    wrote; `result` gives plain containers, merged into metrics.json. `title` and `lead` stand above its tables.
    """

    title: ClassVar[str] = ""
    lead: str = ""
    judges: ClassVar[bool] = False
    """Whether it says what the rule `judge` needs."""
    rules: Rules | None = None
    """By which answers are right, of the metric that says it."""
    columns: tuple[Column, ...] = ()
    measures: tuple[Measure, ...] = ()
    besides: tuple[Beside, ...] = ()

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise ConfigError for what cannot be told of these questions, before any weights load."""
        del prompts

    def line(self, item: ScoredAnswer) -> dict[str, Any]:
        """Return fields for the line of one answer; nothing unless overridden."""
        del item
        return {}

    def finish(self, folder: Path, answered: Iterable[tuple[Pictures, Prompt, Line]]) -> None:
        """Do what takes all answers, which are in `folder`, before lines are added; nothing unless overridden."""
        del folder, answered

    @abstractmethod
    def add(self, line: Line) -> None:
        """Take one line of predictions.jsonl in."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return what metrics.json is to hold, keyed by names of its own."""

    def figures(self, result: Mapping[str, Any]) -> dict[str, str]:
        """Return large numbers for the head of a page, by what they are called, from the whole of metrics.json."""
        del result
        return {}

    def breakdowns(self, result: Mapping[str, Any]) -> list[Breakdown]:
        """Return further tables, from the whole of metrics.json."""
        del result
        return []


class _OfQuestions(Metric):
    """One value a question, under `name` in predictions.jsonl and metrics.json."""

    name: ClassVar[str]
    good: ClassVar[int] = 1
    _counted: "Shares | Means"

    def __init_subclass__(cls) -> None:
        if not cls.title and hasattr(cls, "name"):
            cls.title = cls.name.replace("_", " ").capitalize()

    @abstractmethod
    def of(self, item: ScoredAnswer) -> bool | float | None:
        """Return what is told of one answer; None where it is not known."""

    def line(self, item: ScoredAnswer) -> dict[str, Any]:
        """See `Metric.line`."""
        return {self.name: self.of(item)}

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        return {self.name: self._counted.result()}

    def told(self, line: Line) -> bool | float | None:
        """Return what a line says; None for a line of a run without this metric."""
        return line.get(self.name)


class Share(_OfQuestions):
    """A yes or no of each question: `of` gives True, False, or None where it cannot be told.

    In percent, with Wilson's interval; the multi-image mean weighs formats alike. Runs are compared question by
    question as they are in accuracy.
    """

    def __init__(self) -> None:
        self._counted = Shares()
        self.columns = (Column(key=self.name, title=f"{self.title}, %", chart=self.title, highest=100.0),)
        self.measures = (Measure(key=self.name, title=self.title, told=self.told, good=self.good, highest=100.0),)

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        self._counted.add(format_of(line), self.told(line))

    def figures(self, result: Mapping[str, Any]) -> dict[str, str]:
        """Return the share over several images and over one."""
        return share_figures(result.get(self.name, {}), self.title)


class Mean(_OfQuestions):
    """A number of each question, in a unit of its own: `of` gives it, or None where it is not known.

    With a normal interval; the multi-image mean is over all those questions. `highest` is the end of a chart's axis,
    which starts at 0; without it there is no chart.
    """

    digits: ClassVar[int] = 2
    highest: ClassVar[float | None] = None

    def __init__(self) -> None:
        self._counted = Means()
        shown: dict[str, Any] = {"digits": self.digits, "highest": self.highest}
        self.columns = (Column(key=self.name, title=self.title, chart=self.title, unit="", **shown),)
        self.measures = (
            Measure(key=self.name, title=self.title, told=self.told, share=False, good=self.good, **shown),
        )

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        self._counted.add(format_of(line), self.told(line))


@dataclass(slots=True)
class Metrics:
    """All metrics of a run by name; memory does not grow with the number of lines."""

    parts: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def rules(self) -> Rules:
        """By which answers are right; the default ones where no metric says so."""
        return next((part.rules for part in self.parts.values() if part.rules is not None), Rules())

    def check(self, prompts: Sequence[Prompt]) -> None:
        """See `Metric.check`; raises ConfigError for the rule `judge` without a judge."""
        if "judge" in self.rules.names and not any(part.judges for part in self.parts.values()):
            raise ConfigError("the rule judge needs one; set metrics=[default,judge] and metrics.judge.url and model")
        for part in self.parts.values():
            part.check(prompts)

    def finish(self, folder: Path, answered: Sequence[tuple[Pictures, Prompt, Line]]) -> None:
        """See `Metric.finish`."""
        for part in self.parts.values():
            part.finish(folder, answered)

    def line(self, item: ScoredAnswer) -> dict[str, Any]:
        """Return the fields that all of them add to an answer's line."""
        return {key: value for part in self.parts.values() for key, value in part.line(item).items()}

    def add(self, line: Line) -> None:
        """Take one line of predictions.jsonl in."""
        for part in self.parts.values():
            part.add(line)

    def result(self) -> dict[str, Any]:
        """Return what metrics.json holds; two metrics that speak of one thing are merged."""
        merged: dict[str, Any] = {}
        for part in self.parts.values():
            _merge(merged, part.result())
        return merged

    @property
    def columns(self) -> list[Column]:
        """Columns of all."""
        return [column for part in self.parts.values() for column in part.columns]

    @property
    def measures(self) -> list[Measure]:
        """Measures of all."""
        return [measure for part in self.parts.values() for measure in part.measures]

    @property
    def besides(self) -> list[Beside]:
        """What measures are held against."""
        return [beside for part in self.parts.values() for beside in part.besides]


def share_figures(entries: Mapping[str, Any], title: str) -> dict[str, str]:
    """Return shares over several images and over one, as large numbers."""
    return {
        f"{format_title(name)} {title.lower()}": f"{entries[name]['value']:.1f} %"
        for name in (MULTI_IMAGE, SINGLE_IMAGE)
        if name in entries
    }


def _merge(into: dict[str, Any], further: Mapping[str, Any]) -> None:
    for key, value in further.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
