"""The page of a training run: what its metrics.csv holds as curves, held-out metrics, held-out pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookright.common.formats import format_order, format_title
from lookright.common.metrics_csv import STEP, read_metrics
from lookright.config.made_by import MadeBy
from lookright.records.pictures import Pictures
from lookright.reports.cells import Cell, Table, made_by_entries, score_line
from lookright.reports.charts import Curve, Drawing, curves
from lookright.reports.examples import Card, prompt_card
from lookright.reports.page import render, write_page
from lookright.reports.sampling import StratifiedSample
from lookright.types import Preference

Columns = dict[str, list[tuple[float, float]]]
"""(step, value) of each metric, where it was logged."""

SECTIONS = {
    "Losses": ("loss",),
    "Preference": ("reward_", "logps_", "reference_logps_"),
    "Attention ratio on the target": ("attention_ratio",),
    "Other": ("",),
}
"""Titles, and what the names of their metrics begin with; a metric goes to the first that fits."""
BESIDE = ("even_ratio", "reference_logps_margin")
"""Metrics drawn into the chart of another, to compare with."""
BY_FORMAT = ("attention_ratio", "accuracy")
"""Metrics with a chart for each format."""
TRAIN, HELD_OUT, EVEN = 1, 2, 0
"""Colours of the series."""


@dataclass(slots=True, frozen=True, kw_only=True)
class HeldOutPair:
    """A held-out pair, what opens its pictures, and its metrics at the last validation."""

    record: Preference
    pictures: Pictures
    metrics: Mapping[str, float]

    @property
    def margins(self) -> tuple[float | None, float]:
        """Log-probability of chosen over rejected, nats, of the reference (None: there is none) and of the policy."""
        return self.metrics.get("reference_logps_margin"), self.metrics["logps_margin"]


def training_html(
    columns: Columns,
    summary: Mapping[str, Any],
    *,
    settings: Mapping[str, str],
    pairs: Sequence[HeldOutPair] = (),
    num_examples: int = 8,
    made_by: MadeBy | None = None,
) -> str:
    """The page. `summary` is what summary.json holds; `settings` are config groups in words."""
    drawn: StratifiedSample[HeldOutPair] = StratifiedSample(num_examples)
    for pair in pairs:
        before, after = pair.margins
        drawn.add((pair.record.format, before is not None and before > 0, after > 0), pair.record.id, pair)
    validated = [step for name, points in columns.items() if name.startswith("val/") for step, _ in points]
    return render(
        "training",
        figures=_figures(summary),
        sections=_sections(columns),
        held_out=_held_out(summary["metrics"]),
        validated=f"{max(validated):,.0f}" if validated else "",
        cards=[_card(pair) for pair in drawn.take()],
        num_pairs=len(pairs),
        settings=settings,
        made_by=made_by_entries(made_by),
    )


def write_training(path: Path, metrics_file: Path, summary: Mapping[str, Any], **options: Any) -> None:
    """`training_html` of a metrics.csv into a file."""
    write_page(path, training_html(read_columns(metrics_file), summary, **options))


def read_columns(path: Path) -> Columns:
    """Every metric of a metrics.csv; what is empty or not finite is left out, and a row that is being written.

    Raises LookRightError naming the line of a damaged file.
    """
    columns: Columns = {}
    for row in read_metrics(path)[1]:
        for name, shown in row.items():
            if name.startswith(("train/", "val/")) and shown and math.isfinite(value := float(shown)):
                columns.setdefault(name, []).append((float(row[STEP]), value))
    return columns


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    metrics = summary["metrics"]
    shown = {"optimiser steps": f"{summary['steps']:,}", "training examples": f"{summary['examples']:,}"}
    shown |= {"held out": f"{summary['held_out']:,}", "seconds": f"{summary['seconds']:,.0f}"}
    for name, title in (("val/loss", "held-out loss"), ("val/reward_accuracy", "held-out reward accuracy")):
        if metrics.get(name) is not None:
            shown[title] = f"{metrics[name]:.3f}" if name == "val/loss" else f"{100 * metrics[name]:.1f} %"
    dropped = {f"dropped: {reason.replace('_', ' ')}": f"{count:,}" for reason, count in summary["dropped"].items()}
    return shown | dropped


def _sections(columns: Columns) -> dict[str, list[Drawing]]:
    """Charts by section, one a metric and format; nothing for a metric without a value."""
    places = dict.fromkeys(_split(name)[1:] for name in columns)
    last = max((points[-1][0] for points in columns.values()), default=0.0)
    found: dict[str, list[Drawing]] = {title: [] for title in SECTIONS}
    for label, metric in sorted(places, key=lambda place: (place[1] != "loss", place[1], _order(place[0]))):
        # of the other metrics the means by format are in the table
        if metric in BESIDE or (label and metric not in BY_FORMAT):
            continue
        title = next(title for title, starts in SECTIONS.items() if metric.startswith(starts))
        drawing = _chart(columns, label, metric, last)
        found[title] += [] if drawing is None else [drawing]
    return {title: drawings for title, drawings in found.items() if drawings}


def _chart(columns: Columns, label: str, metric: str, last: float) -> Drawing | None:
    """Training and held-out curves of one metric, with what compares with it."""
    place = f"{label}/{metric}" if label else metric
    lines = [
        Curve(name="training", points=columns.get(f"train/{place}", []), series=TRAIN),
        Curve(name="held out", points=columns.get(f"val/{place}", []), series=HELD_OUT, kind="dots"),
    ]
    beside = {"attention_ratio": "even_ratio", "logps_margin": "reference_logps_margin"}.get(metric)
    if beside is not None:
        compared = place.replace(metric, beside)
        points = columns.get(f"train/{compared}") or columns.get(f"val/{compared}", [])
        lines.append(Curve(name=beside.replace("_", " "), points=points, series=EVEN, kind="even"))
    spoken = metric.replace("_", " ").capitalize()
    return curves(f"{spoken}, {format_title(label).lower()}" if label else spoken, lines, last)


def _held_out(metrics: Mapping[str, float | None]) -> Table | None:
    """Means over the held-out pairs, and over those of each format."""
    values = {
        _split(name)[1:]: value for name, value in metrics.items() if name.startswith("val/") and value is not None
    }
    labels = sorted({label for label, _ in values}, key=_order)
    if not labels:
        return None
    rows = [
        [
            metric.replace("_", " "),
            *("" if (label, metric) not in values else f"{values[label, metric]:.3f}" for label in labels),
        ]
        for metric in sorted({metric for _, metric in values})
    ]
    return Table(head=["", *(format_title(label) if label else "All" for label in labels)], rows=rows)


def _order(label: str) -> tuple[bool, tuple[int, str]]:
    """All pairs first, then format by format."""
    return bool(label), format_order(label)


def _split(name: str) -> tuple[str, str, str]:
    """`val/sequence/loss` as (val, sequence, loss); the format is empty where there is none."""
    split, _, rest = name.partition("/")
    label, _, metric = rest.rpartition("/")
    return split, label, metric


def _card(pair: HeldOutPair) -> Card:
    record, (before, after) = pair.record, pair.margins
    told = {"before": before, "after": after}
    chips = [
        Cell(text=f"{when}: {'ranked right' if margin > 0 else 'ranked wrong'}", kind="good" if margin > 0 else "bad")
        for when, margin in told.items()
        if margin is not None
    ]
    rejected = [("Rejected", Cell(text=text, kind="bad")) for text in record.rejected]
    entries = [("Chosen", Cell(text=record.chosen, kind="good")), *rejected]
    margins = ", ".join(f"{margin:+.2f} {when}" for when, margin in told.items() if margin is not None)
    known = {key: pair.metrics.get(key) for key in ("attention_ratio", "even_ratio")}
    line = score_line({key: None if value is None or math.isnan(value) else value for key, value in known.items()})
    scores = f"log-probability of chosen over rejected: {margins} nats"
    return prompt_card(record, pair.pictures, chips, entries, f"{scores} \u00b7 {line}" if line else scores)
