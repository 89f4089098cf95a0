"""How many answers are right, by format and number of images, and what picking a shown image at random gets right."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lookright.answering.answerer import ScoredAnswer
from lookright.common.answers import same_answer
from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_order
from lookright.evaluation.groups import Entry, Line, Shares, format_of, is_right, percent, several
from lookright.evaluation.intervals import RunningMean, wilson
from lookright.evaluation.metric import Beside, Breakdown, Column, Measure, Metric, share_figures
from lookright.types import Prompt


class Accuracy(Metric):
    """Share of right answers (`matching.is_correct`), in percent with 95 % intervals.

    - `accuracy`: one entry per format present, `single_image` among them, and `multi_image`, the unweighted mean of
      the multi-image formats present, whose interval `mean_of_proportions` derives;
    - `accuracy_by_num_images` and `accuracy_by_format_and_num_images`, by the number of source images.
    """

    title = "Accuracy"
    lead = (
        "With 95 % intervals. The multi-image mean weighs the formats alike, whatever their number of questions. "
        "Chance is the accuracy of giving the answer of a shown image picked at random."
    )
    columns = (Column(key="accuracy", title="Accuracy, %", chart="Accuracy", highest=100.0),)
    measures = (
        Measure(
            key="accuracy",
            title="Accuracy",
            short="accuracy, %",
            told=is_right,
            highest=100.0,
        ),
    )

    def __init__(self) -> None:
        self._by_format = Shares()
        self._right: Counter[tuple[str, int]] = Counter()
        self._asked: Counter[tuple[str, int]] = Counter()

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        cell = (format_of(line), line["num_images"])
        self._by_format.add(cell[0], line["correct"])
        self._asked[cell] += 1
        self._right[cell] += bool(line["correct"])

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        counts = sorted({count for _, count in self._asked})
        formats = sorted({name for name, _ in self._asked}, key=format_order)
        return {
            "accuracy": self._by_format.result(),
            "accuracy_by_num_images": {
                str(count): self._share([cell for cell in self._asked if cell[1] == count]) for count in counts
            },
            "accuracy_by_format_and_num_images": {
                name: {str(count): self._share([(name, count)]) for count in counts if (name, count) in self._asked}
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

    def _share(self, cells: Sequence[tuple[str, int]]) -> Entry:
        return percent(wilson(sum(self._right[cell] for cell in cells), sum(self._asked[cell] for cell in cells)))


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
