"""Several runs on the same questions: a table for the terminal, and a page with the pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_title
from lookright.evaluation.comparison import Comparison, Difference, Group, compare_runs
from lookright.evaluation.intervals import Estimate
from lookright.evaluation.metric import Beside, Measure
from lookright.reports.cells import (
    Cell,
    Table,
    format_cell,
    made_by_entries,
    number,
    p_text,
    signed,
    with_range,
)
from lookright.reports.charts import Drawing, IntervalMark, interval_rows
from lookright.reports.examples import Example, example_card
from lookright.reports.page import render, write_page


@dataclass(slots=True, frozen=True, kw_only=True)
class Section:
    """What one metric says of all runs."""

    title: str
    lead: str
    tables: list[Table]


def comparison_text(comparison: Comparison) -> str:
    """Return tables for a terminal, one a measure, with what it is held against and the paired difference of shares."""
    blocks = [_text_of(comparison, measure) for measure in comparison.metrics.measures]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in blocks if lines)


def comparison_html(
    comparison: Comparison,
    *,
    title: str = "Runs on the same questions",
    examples: Sequence[Example] = (),
    seconds: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page.

    `examples`: cards; `seconds`: how long each stage took; `notes`: sentences below the title, such as when and by
    which command runs were made that are shown here.
    """
    by_source = next(iter(comparison.metrics.measures), None)
    return render(
        "comparison",
        title=title,
        notes=list(notes),
        against=comparison.against,
        colours={f"s{series}": run for series, run in enumerate(comparison.runs)},
        figures=_figures(comparison),
        charts=_charts(comparison),
        sections=_sections(comparison),
        source_title="" if by_source is None else by_source.title,
        sources=[]
        if by_source is None
        else [_values(comparison, groups, by_source, title=name) for name, groups in comparison.sources.items()],
        cards=[example_card(example) for example in examples],
        seconds=_seconds(seconds or {}),
        made_by={name: made_by_entries(record) for name, record in comparison.made_by.items()},
    )


def write_comparison(
    path: Path, runs: Mapping[str, str | Path], against: str | None = None, **options: Any
) -> Comparison:
    """Compare folders of infer.py by name (see `compare_runs`) and write the page; `options` are its own."""
    comparison = compare_runs(runs, against)
    write_page(Path(path), comparison_html(comparison, **options))
    return comparison


def _others(comparison: Comparison) -> list[str]:
    return [name for name in comparison.runs if name != comparison.against]


def _shown(groups: Mapping[str, Group], measure: Measure) -> dict[str, Group]:
    """The groups that a measure is shown for: where some run knows it."""
    return {
        name: group
        for name, group in groups.items()
        if not (measure.several and name == SINGLE_IMAGE)
        and any(answers.estimates[measure.key] is not None for answers in group.answers.values())
    }


def _besides(comparison: Comparison, measure: Measure) -> list[Beside]:
    return [beside for beside in comparison.metrics.besides if beside.measure == measure.key]


def _text_of(comparison: Comparison, measure: Measure) -> list[str]:
    """One measure's lines in a terminal."""
    groups, runs, others = _shown(comparison.groups, measure), comparison.runs, _others(comparison)
    if not groups:
        return []
    besides = [] if measure.of_errors else _besides(comparison, measure)
    digits = 1 if measure.share else measure.digits + 1
    facts = ["questions", *(beside.title.split(",")[0].lower() for beside in besides)][-2:]
    if not measure.share or measure.of_errors:
        facts = facts[1:]
    lines = [_text_row(measure.short or measure.title.lower(), facts, runs)]
    for name, group in groups.items():
        known = [number(group.besides[beside.key], digits) for beside in besides]
        known = [f"{group.num_questions:,}", *known][-2:]
        cells = [_text_cell(group, run, measure, digits) for run in runs]
        lines.append(_text_row(format_title(name), known[-len(facts) :] if facts else [], cells))
    if not measure.share or measure.of_errors:
        return lines
    lines += ["", _text_row(f"against {comparison.against}", [], others)]
    for name, group in groups.items():
        found = [group.differences[measure.key].get(run) for run in others]
        points = ["-" if one is None else _plain(one.points, signed) for one in found]
        tests = ["" if one is None else f"+{one.gained} -{one.lost}, {p_text(one.p_value)}" for one in found]
        lines += [_text_row(format_title(name), [], points), _text_row("", [], tests)]
    return lines


def _text_cell(group: Group, run: str, measure: Measure, digits: int) -> str:
    answers = group.answers[run]
    if measure.of_errors:
        return f"{answers.counts[measure.key]} of {answers.num_wrong} wrong"
    estimate = answers.estimates[measure.key]
    if estimate is None:
        return "-"
    return _plain(estimate) if measure.share else f"{estimate.value:.{digits}f}"


def _text_row(name: str, facts: Sequence[str], cells: Sequence[str]) -> str:
    filled = [*facts, "", ""][:2]
    return "".join([f"{name:<20}", *(f"{fact:>11}" for fact in filled), *(f"{cell:>26}" for cell in cells)])


def _plain(estimate: Estimate, shown: Callable[[float], str] = "{:.1f}".format) -> str:
    return f"{shown(estimate.value)} [{shown(estimate.low)}, {shown(estimate.high)}]"


def _figures(comparison: Comparison) -> dict[str, str]:
    """The last run that is not the one compared with, in large numbers."""
    run, against = _others(comparison)[-1], comparison.against
    shown = {}
    for measure in comparison.metrics.measures:
        if measure.share and not measure.of_errors:
            for name in (MULTI_IMAGE, SINGLE_IMAGE):
                found = comparison.groups[name].differences[measure.key].get(run) if name in comparison.groups else None
                if found is not None:
                    unit = "points" if measure.key == "accuracy" else f"points of {measure.title.lower()}"
                    shown[f"{unit}, {format_title(name).lower()}, {run} against {against}"] = signed(found.points.value)
            continue
        mean = comparison.groups.get(MULTI_IMAGE)
        if mean is None:
            continue
        before, after = mean.answers[against], mean.answers[run]
        told = [one for one in (before.estimates[measure.key], after.estimates[measure.key]) if one is not None]
        if len(told) < 2:
            continue
        if measure.of_errors:
            shown[measure.title] = f"{before.counts[measure.key]} \u2192 {after.counts[measure.key]}"
            continue
        values = [f"{one.value:.{measure.digits}f}" for one in told]
        beside = [
            f" ({one.title.split()[0].lower()} {number(after.besides[one.key], measure.digits)})"
            for one in _besides(comparison, measure)
            if after.besides[one.key] is not None
        ]
        shown[measure.title] = f"{values[0]} \u2192 {values[1]}{''.join(beside)}"
    return shown


def _sections(comparison: Comparison) -> list[Section]:
    """One section a metric that runs are compared by."""
    sections = []
    for part in comparison.metrics.parts.values():
        tables = []
        for measure in part.measures:
            if not _shown(comparison.groups, measure):
                continue
            if measure.of_errors:
                tables.append(_counts(comparison, measure))
                continue
            tables.append(_values(comparison, comparison.groups, measure))
            if measure.share:
                tables.append(_differences(comparison, measure))
        if tables:
            sections.append(Section(title=part.title, lead=part.lead, tables=tables))
    return sections


def _values(comparison: Comparison, groups: Mapping[str, Group], measure: Measure, title: str = "") -> Table:
    """A measure of all runs with intervals, beside what it is held against."""
    besides, runs = _besides(comparison, measure), comparison.runs
    rows = []
    for name, group in _shown(groups, measure).items():
        estimates = [group.answers[run].estimates[measure.key] for run in runs]
        rows.append(
            [
                format_cell(name),
                f"{group.num_questions:,}",
                *(number(group.besides[beside.key], measure.digits) for beside in besides),
                *("-" if one is None else with_range(one, measure.digits) for one in estimates),
            ]
        )
    unit = f", {measure.unit}" if measure.unit else ""
    head = ["", "Questions", *(beside.title for beside in besides), *(f"{run}{unit}" for run in runs)]
    return Table(head=head, rows=rows, title=title)


def _differences(comparison: Comparison, measure: Measure) -> Table:
    others = _others(comparison)
    rows = [
        [format_cell(name), *(_difference(group.differences[measure.key].get(run), measure.good) for run in others)]
        for name, group in _shown(comparison.groups, measure).items()
    ]
    title = f"{measure.title}: difference to {comparison.against}"
    return Table(head=["", *(f"{run}, points" for run in others)], rows=rows, title=title)


def _difference(difference: Difference | None, good: int) -> Cell | str:
    """A paired difference and its test; coloured where its interval leaves 0 out. `good` is the sign that is."""
    if difference is None:
        return "-"
    points = difference.points
    apart = good and (points.low > 0 or points.high < 0)
    kind = ("up" if points.value * good > 0 else "down") if apart else ""
    below = [f"+{difference.gained:,} -{difference.lost:,}, {p_text(difference.p_value)}"]
    if difference.bootstrap is not None:
        drawn = difference.bootstrap
        below.append(f"bootstrap {signed(drawn.low)} to {signed(drawn.high)}")
        if difference.questions_for_a_point is not None:
            below.append(f"a point takes {difference.questions_for_a_point:,} questions")
    note = f"{signed(points.low)} to {signed(points.high)}"
    return Cell(text=signed(points.value), note=note, below=tuple(below), kind=kind)


def _counts(comparison: Comparison, measure: Measure) -> Table:
    """Wrong answers of a kind, with their share of the questions and of the wrong, and their paired test."""
    rows = []
    for name, group in _shown(comparison.groups, measure).items():
        cells: list[Cell | str] = []
        for run in comparison.runs:
            found, test = group.answers[run], group.differences[measure.key].get(run)
            share, count = found.estimates[measure.key], found.counts[measure.key]
            below = [_of_wrong(count, found.num_wrong)]
            if test is not None:
                below.append(f"{signed(test.points.value)} points, {p_text(test.p_value)}")
            note = "" if share is None else f"{share.value:.1f} %"
            cells.append("-" if share is None else Cell(text=f"{count:,}", note=note, below=tuple(below)))
        rows.append([format_cell(name), *cells])
    return Table(head=["", *comparison.runs], rows=rows, title=measure.title)


def _of_wrong(count: int, wrong: int) -> str:
    return f"{100 * count / wrong:.0f} % of the wrong" if wrong else "none wrong"


def _charts(comparison: Comparison) -> list[Drawing]:
    drawings = []
    for measure in comparison.metrics.measures:
        if measure.highest is None:
            continue
        rows: dict[str, list[IntervalMark]] = {}
        for name, group in _shown(comparison.groups, measure).items():
            estimates = [group.answers[run].estimates[measure.key] for run in comparison.runs]
            rows[format_title(name)] = [
                _whisker(found, series) for series, found in enumerate(estimates) if found is not None
            ]
        if rows:
            drawings.append(interval_rows(measure.title, rows, unit=measure.unit, highest=measure.highest))
    return drawings


def _whisker(estimate: Estimate, series: int) -> IntervalMark:
    return IntervalMark(value=estimate.value, low=estimate.low, high=estimate.high, series=series)


def _seconds(seconds: Mapping[str, float]) -> Table | None:
    rows = [[name.replace("_", " "), f"{value:,.0f}"] for name, value in seconds.items()]
    return Table(head=["", "Seconds"], rows=rows) if rows else None
