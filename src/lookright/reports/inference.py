"""The page of an evaluation: accuracies with intervals, kinds of errors, where the model looked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookright.config.made_by import MadeBy
from lookright.evaluation.error_kinds import ERROR_KINDS
from lookright.evaluation.metrics import format_order
from lookright.reports.cells import (
    Cell,
    Table,
    format_cell,
    format_title,
    made_by_entries,
    number,
    ratio_text,
    with_range,
)
from lookright.reports.charts import Drawing, Whisker, interval_rows
from lookright.reports.examples import Example, example_card
from lookright.reports.page import render, write_page

Metrics = Mapping[str, Any]
"""What `Metrics.result()` gives."""


def inference_html(metrics: Metrics, *, examples: Sequence[Example] = (), made_by: MadeBy | None = None) -> str:
    """The page."""
    ordered = sorted(
        examples,
        key=lambda one: (all(answer.correct for answer in one.answers.values()), format_order(one.prompt.format)),
    )
    return render(
        "inference",
        figures=_figures(metrics),
        accuracy=_accuracy(metrics),
        charts=_charts(metrics),
        by_count=_by_count(metrics),
        errors=_errors(metrics),
        cards=[example_card(one) for one in ordered],
        made_by=made_by_entries(made_by),
    )


def write_inference(path: Path, metrics: Metrics, **options: Any) -> None:
    """`inference_html` into a file."""
    write_page(path, inference_html(metrics, **options))


def _figures(metrics: Metrics) -> dict[str, str]:
    accuracy, ratio = metrics["accuracy"], metrics["attention_ratio"]
    shown = {
        f"{format_title(name)} accuracy": f"{accuracy[name]['value']:.1f} %"
        for name in ("multi_image", "single_image")
        if name in accuracy
    }
    chance = accuracy.get("multi_image", {}).get("chance")
    if chance is not None:
        shown["chance, several images"] = f"{chance:.1f} %"
    if "multi_image" in ratio:
        entry = ratio["multi_image"]
        shown["attention on the target"] = ratio_text(entry["value"], entry.get("even"))
    asked = sum(entry["num_questions"] for name, entry in accuracy.items() if name != "multi_image")
    return {**shown, "questions": f"{asked:,}"}


def _accuracy(metrics: Metrics) -> Table:
    ratio = metrics["attention_ratio"]
    # what an adaptive decoder made of the last prompt row, and what it decided by; unknown in older files
    own = {"Scaled ratio": metrics.get("scaled_ratio"), "Confidence": metrics.get("confidence")}
    own = {title: means for title, means in own.items() if means}
    rows = [
        [
            format_cell(name),
            f"{entry['num_questions']:,}",
            with_range(entry),
            number(entry.get("chance"), 1),
            with_range(ratio[name], 2) if name in ratio else "-",
            number(ratio.get(name, {}).get("even")),
            *(with_range(means[name], 2) if name in means else "-" for means in own.values()),
        ]
        for name, entry in metrics["accuracy"].items()
    ]
    head = ["", "Questions", "Accuracy, %", "Chance, %", "Attention ratio", "Even look", *own]
    return Table(head=head, rows=rows)


def _charts(metrics: Metrics) -> list[Drawing]:
    scales = {"accuracy": ("Accuracy", "%", 100.0), "attention_ratio": ("Attention ratio", "", 1.0)}
    return [
        interval_rows(
            title,
            {format_title(name): [whisker(entry, 1)] for name, entry in metrics[key].items()},
            unit=unit,
            highest=highest,
        )
        for key, (title, unit, highest) in scales.items()
        if metrics[key]
    ]


def _by_count(metrics: Metrics) -> Table | None:
    by_cell = metrics.get("accuracy_by_format_and_num_images", {})
    several = {name: cells for name, cells in by_cell.items() if name != "single_image"}
    counts = sorted({int(count) for cells in several.values() for count in cells})
    if not counts:
        return None
    rows: list[list[Cell | str]] = [
        [format_title(name), *(with_range(cells[str(count)]) if str(count) in cells else "" for count in counts)]
        for name, cells in several.items()
    ]
    return Table(head=["", *(f"{count} images" for count in counts)], rows=rows)


def _errors(metrics: Metrics) -> Table | None:
    errors = {name: entry for name, entry in metrics.get("errors", {}).items() if entry["num_judged"]}
    if not errors:
        return None
    rows = [
        [
            format_cell(name),
            f"{entry['num_wrong']:,}",
            f"{entry['num_judged']:,}",
            *(with_range(entry[kind]) for kind in ERROR_KINDS),
            f"{entry['num_wrong_kind']:,}",
        ]
        for name, entry in errors.items()
    ]
    kinds = [f"{kind.replace('_', ' ').capitalize()}, %" for kind in ERROR_KINDS]
    return Table(head=["", "Wrong", "Judged", *kinds, "Yes or no, unasked"], rows=rows)


def whisker(entry: Mapping[str, float], series: int) -> Whisker:
    """A metrics entry as a mark of a chart."""
    return Whisker(value=entry["value"], low=entry["low"], high=entry["high"], series=series)
