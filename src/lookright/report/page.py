"""The page of a sweep: table, means over seeds, heat maps over two keys, curves, the best run and its command."""

import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from lookright.config.made_by import shown_path
from lookright.report.runs import Run, natural
from lookright.report.sweep import Sweep
from lookright.report.table import groups_table, markdown, runs_table, short, shown_setting
from lookright.reports.charts import Curve, Drawing, curves, grid
from lookright.reports.page import render

CURVES = ("train/loss", "val/loss", "val/reward_accuracy", "val/attention_ratio")
NUM_COLOURS = 8
"""Of the style sheet; more rows of settings than these share colours."""


def html(sweep: Sweep, made_by: dict[str, str]) -> str:
    """Return the page; `made_by` says what made it."""
    counts = Counter(run.state for run in sweep.runs)
    best = sweep.best
    colours = {
        f"s{number % NUM_COLOURS}": _label(sweep, group.settings)
        for number, group in enumerate(sweep.groups[:NUM_COLOURS])
    }
    return render(
        "sweep",
        title=f"Sweep {sweep.folder.name}",
        lead=_lead(sweep),
        figures={"runs": f"{len(sweep.runs):,}", **{state: f"{count:,}" for state, count in counts.items()}}
        | ({} if best is None else {f"best {sweep.metric}": short(_known(sweep, best))}),
        best=None if best is None else {"lead": best_text(sweep, best), "command": command(sweep, best)},
        notes=[] if sweep.against is None or sweep.differences else ["No run could be compared question by question."],
        runs=runs_table(sweep),
        groups=groups_table(sweep),
        against=sweep.against,
        metric=sweep.metric,
        grids=grids(sweep),
        curves=_curves(sweep),
        colours=colours,
        made_by=made_by,
    )


def markdown_text(sweep: Sweep) -> str:
    """Return the table, means over seeds, and the best run, as markdown."""
    parts = [f"# Sweep {sweep.folder.name}", _lead(sweep), markdown(runs_table(sweep)).rstrip()]
    groups = groups_table(sweep)
    if groups is not None:
        parts += ["## Means over seeds", markdown(groups).rstrip()]
    best = sweep.best
    if best is not None:
        told = command(sweep, best)
        parts += ["## Best run", best_text(sweep, best), *([f"```bash\n{told}\n```"] if told else [])]
    return "\n\n".join(parts) + "\n"


def best_text(sweep: Sweep, best: Run) -> str:
    """Return which run is best, of how many, and by what."""
    count = sum(run.finished and sweep.value(run) is not None for run in sweep.runs)
    settings = ", ".join(f"{key}={shown_setting(sweep.setting(best, key))}" for key in sweep.keys)
    told = f"{best.name}{f' ({settings})' if settings else ''}: {sweep.metric} {short(_known(sweep, best))}"
    chosen = f"the {'lowest' if sweep.lower_is_better else 'highest'} of {count} finished runs"
    typed = (
        "" if best.command else f" No command is known that repeats it; all its keys are in {best.name}/config.yaml."
    )
    by_chance = "As the best of several it is too good by chance: measure it on questions of its own."
    return f"{told}, {chosen}. {by_chance}{typed}"


def command(sweep: Sweep, run: Run) -> str | None:
    """Return the command that repeats a run, into a folder of its own; None where the run does not say."""
    output = shown_path(f"{sweep.folder}_best")
    return None if run.command is None else f"{run.command} {shlex.quote(f'output={output}')}"


def grids(sweep: Sweep) -> list[Drawing]:
    """Return a heat map of the metric for each two keys that differ."""
    return [_grid(sweep, down, across) for down, across in combinations(sweep.group_keys, 2)]


def _grid(sweep: Sweep, down: str, across: str) -> Drawing:
    cells: dict[tuple[str, str], list[float]] = {}
    for run in sweep.runs:
        value = sweep.value(run)
        place = shown_setting(sweep.setting(run, down)), shown_setting(sweep.setting(run, across))
        own = cells.setdefault(place, [])
        own += [value] if run.finished and value is not None else []
    rows, columns = (sorted({place[side] for place in cells}, key=natural) for side in (0, 1))
    means = [[_mean(cells.get((row, column), [])) for column in columns] for row in rows]
    return grid(f"{down} (down), {across} (across)", rows, columns, means)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _curves(sweep: Sweep) -> list[Drawing]:
    names = [*CURVES, *([sweep.metric] if sweep.metric not in CURVES else [])]
    drawn = [curves(name, list(_lines(sweep, name))) for name in names]
    return [one for one in drawn if one is not None]


def _lines(sweep: Sweep, name: str) -> Iterator[Curve]:
    for number, group in enumerate(sweep.groups):
        for run in group.runs:
            yield Curve(name=run.name, points=run.columns.get(name, []), series=number % NUM_COLOURS)


def _label(sweep: Sweep, settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={shown_setting(settings[key])}" for key in sweep.group_keys) or "all runs"


def _lead(sweep: Sweep) -> str:
    better = "less is better" if sweep.lower_is_better else "more is better"
    keys = f"keys that differ: {', '.join(sweep.keys)}" if sweep.keys else "no key differs"
    return f"Judged by {sweep.metric} ({better}); {keys}."


def _known(sweep: Sweep, run: Run) -> float:
    value = sweep.value(run)
    assert value is not None, "the best run has the metric"
    return value
