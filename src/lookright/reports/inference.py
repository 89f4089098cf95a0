"""The report of an evaluation: accuracies with intervals, kinds of errors, where the model looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookright.reports.charts import Whisker, chart, interval_rows
from lookright.reports.heat import HeatValues
from lookright.reports.heat_pictures import heat_pictures
from lookright.reports.markup import Html, page, section, table, tag
from lookright.reports.parts import (
    card_head,
    definitions,
    figures,
    format_title,
    prompt_text,
    ratio_text,
    score_line,
    with_range,
)
from lookright.reports.pictures import prompt_pictures
from lookright.reports.sampling import Spread
from lookright.types import Prompt


@dataclass(slots=True, frozen=True, kw_only=True)
class InferenceExample:
    """One answered question. `heat` has, for each picture, (pixel box, attention) of its tokens, where it was read."""

    prompt: Prompt
    prediction: str
    correct: bool
    attention_ratio: float | None = None
    even_ratio: float | None = None
    confidence: float | None = None
    error_kind: str | None = None
    heat: Sequence[HeatValues] | None = None


class InferenceReport:
    """Collects examples one by one and writes `report.html`; holds at most `num_examples` an outcome.

    `folder` is where the prompts' image paths start.
    """

    def __init__(self, folder: Path, *, num_examples: int = 24) -> None:
        self.folder = folder
        self._plain: Spread[InferenceExample] = Spread(num_examples)
        self._mapped: Spread[InferenceExample] = Spread(num_examples)

    def add(self, example: InferenceExample) -> None:
        """One answer. Where any example has a heat map, only such are shown."""
        outcome = "right" if example.correct else example.error_kind or "wrong"
        spread = self._plain if example.heat is None else self._mapped
        spread.add((example.prompt.format, outcome), example.prompt.id, example)

    def html(self, metrics: Mapping[str, Any], title: str = "Evaluation", subtitle: str | None = None) -> str:
        """The page; `metrics` is what `Metrics.result()` gives."""
        parts = [_figures(metrics), _accuracy(metrics), _by_count(metrics), _errors(metrics), self._gallery()]
        return page(title, *parts, subtitle=subtitle)

    def write(
        self, path: Path, metrics: Mapping[str, Any], title: str = "Evaluation", subtitle: str | None = None
    ) -> None:
        """The page into a file."""
        path.write_text(self.html(metrics, title, subtitle), encoding="utf-8")

    def _gallery(self) -> Html | None:
        examples = self._mapped.take() or self._plain.take()
        if not examples:
            return None
        examples.sort(key=lambda one: (one.correct, one.prompt.format))
        return section(
            "Examples",
            tag("div", *(self._card(one) for one in examples), class_="cards"),
            lead="Wrong answers first. Bright areas got more of the model's attention while it answered; "
            "the target image has the strong outline.",
        )

    def _card(self, example: InferenceExample) -> Html:
        prompt = example.prompt
        chips = [("right", "good")] if example.correct else [("wrong", "bad")]
        if example.error_kind:
            chips.append((example.error_kind.replace("_", " "), None))
        shown = prompt_pictures(prompt, self.folder)
        if example.heat is not None:
            shown = heat_pictures(prompt, self.folder, example.heat)
        predicted = ("Model", example.prediction, "good" if example.correct else "bad")
        return tag(
            "article",
            card_head(prompt, chips),
            shown,
            prompt_text(prompt),
            definitions([("Ground truth", prompt.answer, None), predicted]),
            score_line(
                {
                    "attention_ratio": example.attention_ratio,
                    "even_ratio": example.even_ratio,
                    "confidence": example.confidence,
                }
            ),
            class_="card",
        )


def _figures(metrics: Mapping[str, Any]) -> Html:
    accuracy, ratio = metrics["accuracy"], metrics["attention_ratio"]
    shown = {
        f"{format_title(name)} accuracy": f"{accuracy[name]['value']:.1f} %"
        for name in ("multi_image", "single_image")
        if name in accuracy
    }
    if "multi_image" in ratio:
        entry = ratio["multi_image"]
        shown["attention on the target"] = ratio_text(entry["value"], entry.get("even"))
    asked = sum(entry["num_questions"] for name, entry in accuracy.items() if name != "multi_image")
    return figures({**shown, "questions": f"{asked:,}"})


def _accuracy(metrics: Mapping[str, Any]) -> Html:
    accuracy, ratio = metrics["accuracy"], metrics["attention_ratio"]
    rows = []
    for name, entry in accuracy.items():
        title = tag("span", format_title(name), class_="total") if name == "multi_image" else format_title(name)
        looked = with_range(ratio[name], 2) if name in ratio else "-"
        even = ratio.get(name, {}).get("even")
        rows.append([title, f"{entry['num_questions']:,}", with_range(entry), looked, _share(even)])
    head = ["", "Questions", "Accuracy, %", "Attention ratio", "Even look"]
    drawings = [
        chart("Accuracy", _drawing(accuracy)),
        chart("Attention ratio", _drawing(ratio, "", 1.0)) if ratio else None,
    ]
    drawing = tag("div", *drawings, class_="charts two", style="margin-top:14px")
    lead = (
        "With 95 % intervals. The multi-image mean weighs the formats alike, whatever their number of questions. The "
        "attention ratio is the share of the attention on source images that falls on the target; an even look at all "
        "of them has the value in the last column."
    )
    return section("Accuracy", table(head, rows), drawing, lead=lead)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _drawing(entries: Mapping[str, Any], unit: str = "%", highest: float = 100.0) -> Html:
    rows = {format_title(name): [whisker(entry, "tuned")] for name, entry in entries.items()}
    return interval_rows(rows, unit=unit, highest=highest)


def _by_count(metrics: Mapping[str, Any]) -> Html | None:
    by_cell = metrics.get("accuracy_by_format_and_num_images", {})
    several = {name: cells for name, cells in by_cell.items() if name != "single_image"}
    counts = sorted({int(count) for cells in several.values() for count in cells})
    if not counts:
        return None
    rows = [
        [format_title(name), *(with_range(cells[str(count)]) if str(count) in cells else "" for count in counts)]
        for name, cells in several.items()
    ]
    return section("Accuracy by number of images, %", table(["", *(f"{count} images" for count in counts)], rows))


def _errors(metrics: Mapping[str, Any]) -> Html | None:
    errors = {name: entry for name, entry in metrics.get("errors", {}).items() if entry["num_judged"]}
    if not errors:
        return None
    kinds = ["sequence_confusion", "element_interference", "other"]
    rows = [
        [
            format_title(name),
            f"{entry['num_wrong']:,}",
            f"{entry['num_judged']:,}",
            *(with_range(entry[kind]) for kind in kinds),
        ]
        for name, entry in errors.items()
    ]
    head = ["", "Wrong", "Judged", "Sequence confusion, %", "Element interference, %", "Other, %"]
    return section(
        "Kinds of errors",
        table(head, rows),
        lead="Sequence confusion gives the answer of another shown image; element interference mixes words of "
        "several. Shares of the wrong answers whose companions' answers are known.",
    )


def whisker(entry: Mapping[str, float], series: str) -> Whisker:
    """A metrics entry as a mark of a chart."""
    return Whisker(value=entry["value"], low=entry["low"], high=entry["high"], series=series)
