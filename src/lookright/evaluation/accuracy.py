"""How many answers are right, by format and number of images, and what picking a shown image at random gets right."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookright.answering.answerer import ScoredAnswer
from lookright.common.answers import same_answer
from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_order
from lookright.evaluation.groups import Entry, Line, format_of, is_right, percent, several
from lookright.evaluation.intervals import Estimate, RunningMean, mean_of_proportions, wilson
from lookright.evaluation.metric import Beside, Breakdown, Column, Measure, Metric, share_figures
from lookright.evaluation.rules import DEFAULT_RULE, Rules
from lookright.types import Prompt


@dataclass(slots=True, kw_only=True)
class Tally:
    """Answers of one cell: how many are right, the mean of their scores, and by which rules."""

    right: int = 0
    score: RunningMean = field(default_factory=RunningMean)
    in_part: bool = False
    """Whether some answer has a score between 0 and 1."""
    rules: Counter[str] = field(default_factory=Counter)
    num_unparsed: int = 0

    def add(self, line: Line) -> None:
        """Take one line in; one of an earlier version has no rule, which then was `contained`."""
        score = float(line.get("score", line["correct"]))
        self.right += bool(line["correct"])
        self.score.add(score)
        self.in_part |= score not in (0.0, 1.0)
        self.rules[line.get("rule", DEFAULT_RULE)] += 1
        self.num_unparsed += bool(line.get("unparsed"))

    def estimate(self) -> Estimate:
        """Share of 1 with Wilson's interval; a mean of scores with the normal one, inside [0, 1]."""
        if not self.in_part:
            return wilson(round(self.score.mean * self.score.count), self.score.count)
        mean = self.score.estimate()
        return Estimate(value=mean.value, low=max(0.0, mean.low), high=min(1.0, mean.high), count=mean.count)


def _entry(tallies: Sequence[Tally], estimate: Estimate) -> Entry:
    rules = sum((tally.rules for tally in tallies), Counter[str]())
    unparsed = (
        {"num_unparsed": sum(tally.num_unparsed for tally in tallies)} if {"choice", "judge"} & rules.keys() else {}
    )
    return percent(estimate) | {"rule": ", ".join(sorted(rules))} | unparsed


class Accuracy(Metric):
    """Share of right answers, or mean score where a rule gives parts, in percent with 95 % intervals.

    `rule` is the rule of matching (`rules.RULES`), `rules` others by the name of a file or a source. Each entry names
    its own, and counts what `choice` could not parse.

    - `accuracy`: one entry per format present, `single_image` among them, and `multi_image`, the unweighted mean of
      the multi-image formats present, whose interval `mean_of_proportions` derives;
    - `accuracy_by_num_images` and `accuracy_by_format_and_num_images`, by the number of source images.
    """

    title = "Accuracy"
    columns = (
        Column(key="accuracy", title="Accuracy, %", chart="Accuracy", highest=100.0),
        Column(key="accuracy", field="rule", title="Rule"),
        Column(key="accuracy", field="num_unparsed", title="Unparsed", digits=0),
    )
    measures = (
        Measure(
            key="accuracy",
            title="Accuracy",
            short="accuracy, %",
            told=is_right,
            highest=100.0,
        ),
        Measure(
            key="score",
            title="Score",
            short="score",
            told=lambda line: line.get("score"),
            share=False,
            digits=2,
        ),
    )

    def __init__(self, rule: str = DEFAULT_RULE, rules: Mapping[str, str] | None = None) -> None:
        self.rules = Rules(rule, rules)
        self.lead = (
            f"With 95 % intervals. {self.rules.describe()} The multi-image mean weighs the formats alike, whatever "
            "their number of questions. Chance is the accuracy of giving the answer of a shown image picked at random."
        )
        self._by_format: dict[str, Tally] = defaultdict(Tally)
        self._by_count: dict[int, Tally] = defaultdict(Tally)
        self._by_both: dict[tuple[str, int], Tally] = defaultdict(Tally)

    def check(self, prompts: Iterable[Prompt]) -> None:
        """See `Metric.check`."""
        assert self.rules is not None
        self.rules.check(prompts)

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        name, count = format_of(line), line["num_images"]
        for tally in (self._by_format[name], self._by_count[count], self._by_both[name, count]):
            tally.add(line)

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        formats = sorted(self._by_format, key=format_order)
        accuracy = {name: self._share(self._by_format[name]) for name in formats}
        if several(formats):
            tallies = [self._by_format[name] for name in several(formats)]
            accuracy[MULTI_IMAGE] = _entry(tallies, mean_of_proportions([one.estimate() for one in tallies]))
        counts = sorted(self._by_count)
        return {
            "accuracy": accuracy,
            "accuracy_by_num_images": {str(count): self._share(self._by_count[count]) for count in counts},
            "accuracy_by_format_and_num_images": {
                name: {
                    str(count): self._share(self._by_both[name, count])
                    for count in counts
                    if (name, count) in self._by_both
                }
                for name in formats
            },
        }

    def figures(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See `Metric.figures`."""
        return share_figures(result["accuracy"], "accuracy")

    def breakdowns(self, result: Mapping[str, Any]) -> list[Breakdown]:
        """Return accuracy by number of images, for formats with several."""
        by_cell = result.get("accuracy_by_format_and_num_images", {})
        shown = {name: cells for name, cells in by_cell.items() if name != SINGLE_IMAGE}
        counts = sorted({int(count) for cells in shown.values() for count in cells})
        if not counts:
            return []
        head = [f"{count} images" for count in counts]
        rows = {name: [cells.get(str(count)) for count in counts] for name, cells in shown.items()}
        return [Breakdown(title="Accuracy by number of images, %", head=head, rows=rows)]

    def _share(self, tally: Tally) -> Entry:
        return _entry([tally], tally.estimate())


class ChanceLevel:
    """Accuracy of picking a shown image's answer at random, counted question by question."""

    def __init__(self) -> None:
        self._means: dict[str, RunningMean] = defaultdict(RunningMean)
        self._unknown: set[str] = set()

    @property
    def formats(self) -> list[str]:
        """Formats that have a question, known or not."""
        return sorted(self._unknown | self._means.keys(), key=format_order)

    def add(self, format_name: str, chance: float | None) -> None:
        """Take one question's chance in [0, 1] in, None where it is not known."""
        if chance is None:
            self._unknown.add(format_name)
        else:
            self._means[format_name].add(chance)

    def percent(self, formats: Collection[str]) -> float | None:
        """Return the unweighted mean over formats of their mean chance; None where that of a question is not known."""
        if not formats or any(name in self._unknown or name not in self._means for name in formats):
            return None
        return 100 * sum(self._means[name].mean for name in formats) / len(formats)


def chance_percent(lines: Sequence[Line]) -> float | None:
    """Return the chance level of the lines of a run, in percent; None where it is not known."""
    level = ChanceLevel()
    for line in lines:
        level.add(format_of(line), line.get("chance"))
    return level.percent(level.formats)


class Chance(Metric):
    """What accuracy is held against: `chance` beside each entry of `accuracy`, None where it is not known."""

    columns = (Column(key="accuracy", field="chance", title="Chance, %"),)
    besides = (Beside(measure="accuracy", key="chance", title="Chance, %", of=chance_percent),)

    def __init__(self) -> None:
        self._level = ChanceLevel()

    def line(self, item: ScoredAnswer) -> dict[str, Any]:
        """See `Metric.line`."""
        return {"chance": chance(item.prompt)}

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        self._level.add(format_of(line), line.get("chance"))

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        formats = self._level.formats
        found = {name: {"chance": self._level.percent([name])} for name in formats}
        if several(formats):
            found[MULTI_IMAGE] = {"chance": self._level.percent(several(formats))}
        return {"accuracy": found}

    def figures(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See `Metric.figures`."""
        level = result["accuracy"].get(MULTI_IMAGE, {}).get("chance")
        return {} if level is None else {"chance, several images": f"{level:.1f} %"}


def chance(prompt: Prompt) -> float | None:
    """Return the share of the shown images that have the ground truth as their answer: what one at random gets right.

    In (0, 1]; None for a single image, of which none is picked, and where the source does not know all answers.
    """
    answers = prompt.provenance.get("region_answers") or []
    if len(answers) < 2 or None in answers:
        return None
    return sum(same_answer(answer, prompt.ground_truth) for answer in answers) / len(answers)
