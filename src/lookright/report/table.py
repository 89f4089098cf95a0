"""The table of a sweep: all numbers for csv, the main ones for people, as markdown and in a page's cells."""

import csv
import io
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any

from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE
from lookright.config.runs import OBJECTIVE
from lookright.evaluation.comparison import Difference
from lookright.evaluation.intervals import Estimate
from lookright.report.runs import Run, Setting
from lookright.report.sweep import Group, Sweep
from lookright.reports.cells import Cell, Table, p_text

LONGEST_DETAIL = 160
"""Characters of an error in the table for people; the csv has its whole first line."""


def csv_text(sweep: Sweep) -> str:
    """One line a run: state, keys that differ, every number with its interval, differences, error."""
    names = sorted({name for run in sweep.runs for name in run.values})
    rows = [
        {"run": run.name, "state": run.state}
        | {key: sweep.setting(run, key) for key in sweep.keys}
        | {"steps": run.summary.get("steps"), "seconds": run.summary.get("seconds")}
        | dict(_numbers(run, names))
        | _difference_numbers(sweep.differences.get(run.name))
        | {"detail": run.detail}
        for run in sweep.runs
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def runs_table(sweep: Sweep) -> Table:
    """One row a run; what is not finished has what is known by now, and why."""
    names = shown_metrics(sweep)
    head = ["Run", "State", *sweep.keys, *names, "Steps"]
    if sweep.against is not None:
        head.append(f"Difference to {sweep.against}, points")
    rows = [[_name(sweep, run), _state(run), *_cells(sweep, run, names)] for run in sweep.runs]
    return Table(head=[*head, "Detail"], rows=rows)


def groups_table(sweep: Sweep) -> Table | None:
    """One row for all seeds of some settings; None where no settings have two finished seeds."""
    if not any(group.interval for group in sweep.groups):
        return None
    head = [*(sweep.group_keys or ["Settings"]), "Seeds", sweep.metric]
    if sweep.against is not None:
        head.append(f"Difference to the settings of {sweep.against}")
    return Table(head=head, rows=[_group_row(sweep, group) for group in sweep.groups])


def shown_metrics(sweep: Sweep) -> list[str]:
    """The metric that runs are judged by, the held-out loss, and main numbers of the test sets."""
    told = {name for run in sweep.runs for name in run.values}
    # of one image alone the ratio is 1
    further = [f"accuracy/{MULTI_IMAGE}", f"accuracy/{SINGLE_IMAGE}", f"attention_ratio/{MULTI_IMAGE}"]
    return [sweep.metric, *(name for name in (*further, OBJECTIVE) if name in told and name != sweep.metric)]


def markdown(table: Table) -> str:
    """A table of the page as markdown."""
    lines = [table.head, ["---"] * len(table.head), *([_plain(cell) for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown_setting(value: Setting) -> str:
    """A key's value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def short(value: float) -> str:
    """A number to four digits."""
    return f"{value:.4g}"


def _numbers(run: Run, names: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    for name in names:
        yield name, run.values.get(name)
        entry = run.entry(name)
        if entry is not None:
            yield f"{name} low", entry["low"]
            yield f"{name} high", entry["high"]


def _difference_numbers(found: Difference | None) -> dict[str, Any]:
    if found is None:
        return {}
    points = found.points
    numbers = {"difference": points.value, "difference low": points.low, "difference high": points.high}
    return numbers | {"gained": found.gained, "lost": found.lost, "p_value": found.p_value}


def _name(sweep: Sweep, run: Run) -> Cell:
    return Cell(text=run.name, kind="total" if run is sweep.best else "")


def _state(run: Run) -> Cell:
    return Cell(text=run.state, kind="down" if run.state == "failed" else "")


def _cells(sweep: Sweep, run: Run, names: Sequence[str]) -> Iterator[Cell | str]:
    yield from (shown_setting(sweep.setting(run, key)) for key in sweep.keys)
    for name in names:
        value, entry = run.values.get(name), run.entry(name)
        note = "" if entry is None else f"{short(entry['low'])} to {short(entry['high'])}"
        yield "-" if value is None else Cell(text=short(value), note=note)
    steps = max((points[-1][0] + 1 for points in run.columns.values()), default=None)
    yield str(run.summary["steps"]) if "steps" in run.summary else "-" if steps is None else f"{steps:.0f}"
    if sweep.against is not None:
        yield _difference(sweep, run)
    yield shorten(run.detail, LONGEST_DETAIL, placeholder=" ...")


def _difference(sweep: Sweep, run: Run) -> Cell:
    found = sweep.differences.get(run.name)
    if found is None:
        return Cell(text="-", note=sweep.not_compared.get(run.name, ""))
    test = f"+{found.gained} -{found.lost}, {p_text(found.p_value)}"
    return _with_interval(found.points.value, found.points, below=(test,))


def _group_row(sweep: Sweep, group: Group) -> list[Cell | str]:
    row: list[Cell | str] = [shown_setting(group.settings[key]) for key in sweep.group_keys] or ["all"]
    row.append(
        f"{len(group.values)} of {len(group.runs)}" if len(group.values) < len(group.runs) else f"{len(group.values)}"
    )
    row.append("-" if group.mean is None else _with_interval(group.mean, group.interval))
    if sweep.against is not None:
        row.append("-" if group.change is None else _with_interval(group.change, group.change_interval))
    return row


def _with_interval(value: float, interval: Estimate | None, below: tuple[str, ...] = ()) -> Cell:
    note = "" if interval is None else f"{short(interval.low)} to {short(interval.high)}"
    return Cell(text=short(value), note=note, below=below)


def _plain(cell: Cell | str) -> str:
    text = (
        cell
        if isinstance(cell, str)
        else " ".join([cell.text, *([f"[{cell.note}]"] if cell.note else []), *cell.below])
    )
    return text.replace("|", "\\|").replace("\n", " ")
