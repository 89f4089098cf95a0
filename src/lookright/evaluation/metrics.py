"""What `metrics.json` holds: accuracies with 95 % intervals, attention ratios, kinds of errors."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from lookright.evaluation.error_kinds import ERROR_KINDS
from lookright.evaluation.intervals import Estimate, RunningMean, mean_of_proportions, wilson

MULTI_IMAGE_FORMATS = ("sequence", "grid_collage", "pic_in_pic")
SINGLE_IMAGE = "single_image"
MULTI_IMAGE = "multi_image"

Cell = tuple[str, int]
"""Format and number of source images."""


class ChanceLevel:
    """Accuracy of picking a shown image's answer at random, counted question by question."""

    def __init__(self) -> None:
        self._means: dict[str, RunningMean] = defaultdict(RunningMean)
        self._unknown: set[str] = set()

    def add(self, format_name: str, chance: float | None) -> None:
        """One question's chance in [0, 1], None where it is not known."""
        if chance is None:
            self._unknown.add(format_name)
        else:
            self._means[format_name].add(chance)

    def percent(self, formats: Collection[str]) -> float | None:
        """Unweighted mean over formats of their mean chance; None where that of a question is not known."""
        if not formats or any(name in self._unknown or name not in self._means for name in formats):
            return None
        return 100 * sum(self._means[name].mean for name in formats) / len(formats)


class Metrics:
    """Counts predictions one by one; memory does not grow with their number.

    `result()` gives plain containers, accuracies and shares in percent, ratios in [0, 1]:

    - `accuracy`: one entry per format present, `single_image` among them, and `multi_image`, the unweighted
      mean of the multi-image formats present, whose interval `mean_of_proportions` derives; `chance` beside it is
      that of a shown image's answer picked at random, None where it is not known;
    - `accuracy_by_num_images` and `accuracy_by_format_and_num_images`;
    - `attention_ratio`: per format, and `multi_image`, the mean over all multi-image questions; `even` beside it is the
      mean of what an even look would have. It means the same whatever the decoder;
    - `scaled_ratio`: alike, of the last prompt row as adaptive decoding scaled it; empty for other decoders;
    - `confidence`: alike, of the first token in plain decoding, over right and wrong answers;
    - `errors`: per format and `multi_image`, the number of wrong answers, of those that can be judged, and
      each kind's share of the judged; `num_wrong_kind` are yes or no where something else was asked.

    An entry of all but `errors` is `{value, low, high, num_questions}`.
    """

    def __init__(self) -> None:
        self._right: Counter[Cell] = Counter()
        self._asked: Counter[Cell] = Counter()
        self._ratios: dict[str, RunningMean] = defaultdict(RunningMean)
        self._even_ratios: dict[str, RunningMean] = defaultdict(RunningMean)
        self._scaled_ratios: dict[str, RunningMean] = defaultdict(RunningMean)
        self._confidences: dict[str, RunningMean] = defaultdict(RunningMean)
        self._kinds: dict[str, Counter[str | None]] = defaultdict(Counter)
        self._wrong_kind: Counter[str] = Counter()
        self._chance = ChanceLevel()

    def add(
        self,
        *,
        format_name: str | None,
        num_images: int,
        correct: bool,
        attention_ratio: float | None = None,
        even_ratio: float | None = None,
        scaled_ratio: float | None = None,
        confidence: float | None = None,
        error_kind: str | None = None,
        wrong_kind: bool = False,
        chance: float | None = None,
    ) -> None:
        """One prediction; no format means a single image. `error_kind` is None where right or not to be judged."""
        name = format_name or SINGLE_IMAGE
        groups = [name] if name == SINGLE_IMAGE else [name, MULTI_IMAGE]
        self._asked[name, num_images] += 1
        self._right[name, num_images] += bool(correct)
        self._chance.add(name, chance)
        means = (
            (self._ratios, attention_ratio),
            (self._even_ratios, even_ratio),
            (self._scaled_ratios, scaled_ratio),
            (self._confidences, confidence),
        )
        for group in groups:
            for mean, value in means:
                if value is not None:
                    mean[group].add(value)
            if not correct:
                self._kinds[group][error_kind] += 1
                self._wrong_kind[group] += wrong_kind

    def result(self) -> dict[str, Any]:
        """Everything counted so far, ready for json."""
        formats = sorted({name for name, _ in self._asked}, key=format_order)
        counts = sorted({count for _, count in self._asked})
        by_format = {name: self._accuracy([cell for cell in self._asked if cell[0] == name]) for name in formats}
        several = [name for name in formats if name != SINGLE_IMAGE]
        if several:
            by_format[MULTI_IMAGE] = mean_of_proportions([by_format[name] for name in several])
        by_cell = {
            name: {
                str(count): _percent(self._accuracy([(name, count)]))
                for count in counts
                if (name, count) in self._asked
            }
            for name in formats
        }
        return {
            "accuracy": {
                name: _percent(estimate) | {"chance": self._chance.percent(several if name == MULTI_IMAGE else [name])}
                for name, estimate in by_format.items()
            },
            "accuracy_by_num_images": {
                str(count): _percent(self._accuracy([cell for cell in self._asked if cell[1] == count]))
                for count in counts
            },
            "accuracy_by_format_and_num_images": by_cell,
            "attention_ratio": {name: self._ratio(name) for name in sorted(self._ratios, key=format_order)},
            "scaled_ratio": _means(self._scaled_ratios),
            "confidence": _means(self._confidences),
            "errors": {
                name: _errors(self._kinds[name], self._wrong_kind[name])
                for name in sorted(self._kinds, key=format_order)
            },
        }

    def _ratio(self, name: str) -> dict[str, Any]:
        even = self._even_ratios[name]
        return _entry(self._ratios[name].estimate(), 1.0) | {"even": even.mean if even.count else None}

    def _accuracy(self, cells: list[Cell]) -> Estimate:
        return wilson(sum(self._right[cell] for cell in cells), sum(self._asked[cell] for cell in cells))


def format_order(name: str) -> tuple[int, str]:
    """Sort key: the three formats, then formats from elsewhere, then single_image, then the mean."""
    known = [*MULTI_IMAGE_FORMATS, None, SINGLE_IMAGE, MULTI_IMAGE]
    return (known.index(name) if name in known else len(MULTI_IMAGE_FORMATS), name)


def _entry(estimate: Estimate, unit: float) -> dict[str, float | int]:
    return {
        "value": estimate.value * unit,
        "low": estimate.low * unit,
        "high": estimate.high * unit,
        "num_questions": estimate.count,
    }


def _means(means: Mapping[str, RunningMean]) -> dict[str, Any]:
    return {name: _entry(means[name].estimate(), 1.0) for name in sorted(means, key=format_order)}


def _percent(estimate: Estimate) -> dict[str, float | int]:
    return _entry(estimate, 100.0)


def _errors(kinds: Mapping[str | None, int], num_wrong_kind: int) -> dict[str, Any]:
    """Counts of one group's wrong answers and the kinds' shares of the judged ones, percent."""
    judged = sum(kinds.get(kind, 0) for kind in ERROR_KINDS)
    shares = {kind: _percent(wilson(kinds.get(kind, 0), judged)) for kind in ERROR_KINDS} if judged else {}
    return {"num_wrong": sum(kinds.values()), "num_judged": judged, "num_wrong_kind": num_wrong_kind, **shares}
