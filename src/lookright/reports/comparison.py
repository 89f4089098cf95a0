"""Several runs on the same questions: a table for the terminal, and a page with the pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookright.evaluation.comparison import Comparison, Difference, Group, compare_runs
from lookright.evaluation.intervals import Estimate
from lookright.reports.cells import (
    Cell,
    Table,
    format_cell,
    format_title,
    made_by_entries,
    number,
    p_text,
    ratio_text,
    signed,
    with_range,
)
from lookright.reports.charts import Drawing, Whisker, interval_rows
from lookright.reports.examples import Example, example_card
from lookright.reports.page import render, write_page


def comparison_text(comparison: Comparison) -> str:
    """Tables for a terminal: accuracies, paired differences, answers of another image, attention ratios."""
    runs, others = comparison.runs, [name for name in comparison.runs if name != comparison.against]

    def row(name: str, facts: Sequence[str], cells: Sequence[str]) -> str:
        return "".join([f"{name:<20}", *(f"{fact:>11}" for fact in facts), *(f"{cell:>26}" for cell in cells)])

    lines = [row("accuracy, %", ["questions", "chance"], runs)]
    for name, group in comparison.groups.items():
        facts = [f"{group.num_questions:,}", number(group.chance, 1)]
        lines.append(row(format_title(name), facts, [_plain(group.answers[run].accuracy) for run in runs]))
    lines += ["", row(f"against {comparison.against}", ["", ""], others)]
    for name, group in comparison.groups.items():
        lines.append(row(format_title(name), ["", ""], [_plain(group.accuracy[run].points, signed) for run in others]))
        exact = [f"+{one.gained} -{one.lost}, {p_text(one.p_value)}" for one in (group.accuracy[run] for run in others)]
        lines.append(row("", ["", ""], exact))
    several = {name: group for name, group in comparison.groups.items() if name != "single_image"}
    lines += ["", row("another image's", ["", ""], runs)]
    for name, group in several.items():
        counts = [f"{group.answers[run].num_other_image} of {group.answers[run].num_wrong} wrong" for run in runs]
        lines.append(row(format_title(name), ["", ""], counts))
    lines += ["", row("attention ratio", ["even look", ""], runs)]
    for name, group in several.items():
        ratios = [group.answers[run].attention_ratio for run in runs]
        shown = ["-" if ratio is None else f"{ratio.value:.3f}" for ratio in ratios]
        lines.append(row(format_title(name), [number(group.answers[comparison.against].even_ratio, 3), ""], shown))
    return "\n".join(line.rstrip() for line in lines)


def comparison_html(
    comparison: Comparison,
    *,
    title: str = "Runs on the same questions",
    examples: Sequence[Example] = (),
    seconds: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page.

    `examples`: cards; `seconds`: how long each stage took; `notes`: sentences below the title, such as when and by
    which command runs were made that are shown here.
    """
    return render(
        "comparison",
        title=title,
        notes=list(notes),
        against=comparison.against,
        colours={f"s{series}": run for series, run in enumerate(comparison.runs)},
        figures=_figures(comparison),
        accuracy=_accuracy(comparison.groups, comparison.runs),
        differences=_differences(comparison),
        errors=_errors(comparison),
        attention=_attention(comparison),
        charts=_charts(comparison),
        sources=[_accuracy(groups, comparison.runs, title=source) for source, groups in comparison.sources.items()],
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


def _plain(estimate: Estimate, shown: Callable[[float], str] = "{:.1f}".format) -> str:
    return f"{shown(estimate.value)} [{shown(estimate.low)}, {shown(estimate.high)}]"


def _others(comparison: Comparison) -> list[str]:
    return [name for name in comparison.runs if name != comparison.against]


def _several(comparison: Comparison) -> dict[str, Group]:
    return {name: group for name, group in comparison.groups.items() if name != "single_image"}


def _figures(comparison: Comparison) -> dict[str, str]:
    """The last run that is not the one compared with, in large numbers."""
    run, against = _others(comparison)[-1], comparison.against
    shown = {}
    for name in ("multi_image", "single_image"):
        if name in comparison.groups:
            points = comparison.groups[name].accuracy[run].points
            shown[f"points, {format_title(name).lower()}, {run} against {against}"] = signed(points.value)
    mean = comparison.groups.get("multi_image")
    if mean is not None:
        before, after = mean.answers[against], mean.answers[run]
        shown["answers of another shown image"] = f"{before.num_other_image} \u2192 {after.num_other_image}"
        if before.attention_ratio and after.attention_ratio:
            looked = ratio_text(after.attention_ratio.value, after.even_ratio)
            shown["attention on the target"] = f"{before.attention_ratio.value:.2f} \u2192 {looked}"
    return shown


def _accuracy(groups: Mapping[str, Group], runs: Sequence[str], title: str = "") -> Table:
    rows = [
        [
            format_cell(name),
            f"{group.num_questions:,}",
            number(group.chance, 1),
            *(with_range(group.answers[run].accuracy) for run in runs),
        ]
        for name, group in groups.items()
    ]
    return Table(head=["", "Questions", "Chance, %", *(f"{run}, %" for run in runs)], rows=rows, title=title)


def _differences(comparison: Comparison) -> Table:
    others = _others(comparison)
    rows = [
        [format_cell(name), *(_difference(group.accuracy[run], good=1) for run in others)]
        for name, group in comparison.groups.items()
    ]
    return Table(head=["", *(f"{run}, points" for run in others)], rows=rows)


def _difference(difference: Difference, good: int) -> Cell:
    """A paired difference and its test; coloured where its interval leaves 0 out. `good` is the sign that is."""
    points = difference.points
    apart = points.low > 0 or points.high < 0
    kind = ("up" if points.value * good > 0 else "down") if apart else ""
    return Cell(
        text=signed(points.value),
        note=f"{signed(points.low)} to {signed(points.high)}",
        below=(f"+{difference.gained:,} -{difference.lost:,}, {p_text(difference.p_value)}",),
        kind=kind,
    )


def _errors(comparison: Comparison) -> list[Table]:
    """Answers of another shown image with their paired test, and yes or no where something else was asked."""
    several, against = _several(comparison), comparison.against
    other_image, wrong_kind = [], []
    for name, group in several.items():
        cells = []
        for run in comparison.runs:
            found = group.answers[run]
            test = None if run == against else group.other_image[run]
            below = [_of_wrong(found.num_other_image, found.num_wrong)]
            if test is not None:
                below.append(f"{signed(test.points.value)} points, {p_text(test.p_value)}")
            text, note = f"{found.num_other_image:,}", f"{found.other_image.value:.1f} %"
            cells.append(Cell(text=text, note=note, below=tuple(below)))
        other_image.append([format_cell(name), *cells])
        counted = [(group.answers[run].num_wrong_kind, group.answers[run].wrong_kind) for run in comparison.runs]
        wrong_kind.append(
            [format_cell(name), *(Cell(text=f"{count:,}", note=f"{share.value:.1f} %") for count, share in counted)]
        )
    head = ["", *comparison.runs]
    titles = ("Answers that another shown image has", "Yes or no where something else was asked")
    return [
        Table(head=head, rows=rows, title=title) for title, rows in zip(titles, (other_image, wrong_kind), strict=True)
    ]


def _of_wrong(count: int, wrong: int) -> str:
    return f"{100 * count / wrong:.0f} % of the wrong" if wrong else "none wrong"


def _attention(comparison: Comparison) -> Table | None:
    rows = []
    for name, group in _several(comparison).items():
        ratios = [group.answers[run].attention_ratio for run in comparison.runs]
        if any(ratio is not None for ratio in ratios):
            even = number(group.answers[comparison.against].even_ratio)
            rows.append([format_cell(name), even, *("-" if one is None else with_range(one, 2) for one in ratios)])
    return Table(head=["", "Even look", *comparison.runs], rows=rows) if rows else None


def _charts(comparison: Comparison) -> list[Drawing]:
    accuracy: dict[str, list[Whisker]] = {}
    ratio: dict[str, list[Whisker]] = {}
    for name, group in comparison.groups.items():
        for series, run in enumerate(comparison.runs):
            found = group.answers[run]
            accuracy.setdefault(format_title(name), []).append(_whisker(found.accuracy, series))
            if found.attention_ratio is not None and name != "single_image":
                ratio.setdefault(format_title(name), []).append(_whisker(found.attention_ratio, series))
    drawings = [interval_rows("Accuracy", accuracy)]
    return [*drawings, interval_rows("Attention ratio", ratio, unit="", highest=1.0)] if ratio else drawings


def _whisker(estimate: Estimate, series: int) -> Whisker:
    return Whisker(value=estimate.value, low=estimate.low, high=estimate.high, series=series)


def _seconds(seconds: Mapping[str, float]) -> Table | None:
    rows = [[name.replace("_", " "), f"{value:,.0f}"] for name, value in seconds.items()]
    return Table(head=["", "Seconds"], rows=rows) if rows else None
