"""The page of an evaluation: what its metrics say of each format, and where the model looked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookright.common.formats import MULTI_IMAGE, format_order, format_title
from lookright.config.made_by import MadeBy
from lookright.evaluation.metric import Breakdown, Column, Metrics
from lookright.evaluation.predictions import default_metrics
from lookright.reports.cells import Cell, Table, format_cell, made_by_entries, number, with_range
from lookright.reports.charts import Curve, Drawing, IntervalMark, curves, interval_rows
from lookright.reports.examples import Example, example_card
from lookright.reports.page import render, write_page

Result = Mapping[str, Any]
"""What `Metrics.result()` gives."""


def inference_html(
    result: Result,
    metrics: Metrics | None = None,
    *,
    examples: Sequence[Example] = (),
    made_by: MadeBy | None = None,
) -> str:
    """Return the page of a result; `metrics` (default: those of `conf/metrics/default.yaml`) say how to show it."""
    metrics = default_metrics() if metrics is None else metrics
    ordered = sorted(
        examples,
        key=lambda one: (all(answer.correct for answer in one.answers.values()), format_order(one.prompt.format)),
    )
    columns = [column for column in metrics.columns if _is_known(result, column)]
    figures = {name: text for part in metrics.parts.values() for name, text in part.figures(result).items()}
    asked = _num_questions(result, metrics.columns)
    parts = metrics.parts.values()
    return render(
        "inference",
        figures=figures | {"questions": f"{sum(n for name, n in asked.items() if name != MULTI_IMAGE):,}"},
        warnings=result.get("warnings", []),
        leads=[part.lead for part in parts if part.lead and any(column in columns for column in part.columns)],
        table=_table(result, columns, asked),
        charts=_charts(result, columns),
        breakdowns=[(one, _breakdown(one), _curve(one)) for part in parts for one in part.breakdowns(result)],
        cards=[example_card(one) for one in ordered],
        made_by=made_by_entries(made_by),
    )


def write_inference(path: Path, result: Result, metrics: Metrics | None = None, **options: Any) -> None:
    """Write `inference_html` into a file."""
    write_page(path, inference_html(result, metrics, **options))


def _is_known(result: Result, column: Column) -> bool:
    """Whether some group has a value for the column."""
    return any(entry.get(column.field) is not None for entry in result.get(column.key, {}).values())


def _num_questions(result: Result, columns: Sequence[Column]) -> dict[str, int]:
    """Questions of each group: as many as the metric has that knows most of them."""
    counts: dict[str, int] = {}
    for entries in (result.get(column.key, {}) for column in columns):
        for name, entry in entries.items():
            counts[name] = max(counts.get(name, 0), entry.get("num_questions", 0))
    return {name: counts[name] for name in sorted(counts, key=format_order)}


def _table(result: Result, columns: Sequence[Column], asked: Mapping[str, int]) -> Table:
    rows = [
        [format_cell(name), f"{count:,}", *(_cell(result[column.key].get(name, {}), column) for column in columns)]
        for name, count in asked.items()
    ]
    return Table(head=["", "Questions", *(column.title for column in columns)], rows=rows)


def _cell(entry: Mapping[str, Any], column: Column) -> Cell | str:
    if column.field == "value" and "low" in entry:
        return with_range(entry, column.digits)
    value = entry.get(column.field)
    return value if isinstance(value, str) else number(value, column.digits)


def _charts(result: Result, columns: Sequence[Column]) -> list[Drawing]:
    return [
        interval_rows(
            column.chart or column.title,
            {format_title(name): [whisker(entry, 1)] for name, entry in result[column.key].items()},
            unit=column.unit,
            highest=column.highest,
        )
        for column in columns
        if column.highest is not None
    ]


def _breakdown(one: Breakdown) -> Table:
    rows = [[format_cell(name), *map(_shown, cells)] for name, cells in one.rows.items()]
    return Table(head=["", *one.head], rows=rows)


def _curve(one: Breakdown) -> Drawing | None:
    if not one.curve:
        return None
    diagonal = Curve(name="equal", points=[(0.0, 0.0), (1.0, 1.0)], series=0, kind="even")
    across, title = one.axes
    lines = [diagonal, *(Curve(name=title, points=one.curve, series=1, kind=kind) for kind in ("line", "dots"))]
    return curves(title, lines, last=1.0, x_label=across)


def _shown(value: Any) -> Cell | str:
    """A cell of a breakdown: an entry of metrics.json, a count, a number, a text, or nothing."""
    if isinstance(value, Mapping):
        return with_range(value)
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,}" if isinstance(value, int) else number(value)


def whisker(entry: Mapping[str, float], series: int) -> IntervalMark:
    """Return a metrics entry as a mark of a chart."""
    return IntervalMark(value=entry["value"], low=entry["low"], high=entry["high"], series=series)
