"""`infer.py run=SWEEP_DIR`: every finished run of a sweep answers the same questions, and one table says how well."""

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE
from lookright.common.jsonl import write_atomically
from lookright.config.runs import CONFIG_FILE, trusted_by
from lookright.errors import ConfigError, LookRightError, Stopped
from lookright.evaluation.metric import Column
from lookright.evaluation.predictions import metrics_of_run
from lookright.launching.jobs import launches
from lookright.report.runs import Run, read_runs
from lookright.report.sweep import differing_keys
from lookright.report.table import markdown, shown_setting
from lookright.reports.cells import Cell, Table, with_range

Results = Mapping[str, Mapping[str, Any]]
"""What `metrics.json` holds, by the name of a run."""
TABLE_FILES = ("report.csv", "report.md")


def is_sweep(run: str | None) -> bool:
    """Whether `run` names a folder that is no run itself and has some, or jobs of a launch, below it."""
    if run is None or (Path(run) / CONFIG_FILE).is_file():
        return False
    # what is wrong with them is told where they are read
    return bool(launches(Path(run))) or next(Path(run).rglob(CONFIG_FILE), None) is not None


def infer_sweep(
    config: DictConfig, check: Callable[[DictConfig], Any], answer: Callable[[DictConfig], Any]
) -> dict[str, Any]:
    """Answer with one run after the other into `OUTPUT/NAME`; returns what each `metrics.json` holds, by run.

    `check` raises for a config before anything begins, `answer` does all that one run's config says. Each run loads
    weights of its own: what it answers is what it would alone, whatever it has beside an adapter. A run that is not
    finished is named; one that fails is too, and the others are answered. Raises LookRightError at the end for those.
    """
    runs = read_runs(Path(config.run))
    finished = [run for run in runs if run.finished]
    left_out = [_why(run) for run in runs if not run.finished]
    if not finished:
        raise ConfigError("\n".join([f"run={config.run}: none of its {len(runs)} runs is finished", *left_out]))
    configs = {run.name: _config_of(config, run) for run in finished}
    _check_all(configs, check)
    results, failures = {}, []
    for place, (name, one) in enumerate(configs.items(), start=1):
        print(f"run {name}, {place} of {len(configs)}")
        try:
            results[name] = answer(one)
        except Stopped:
            raise
        except LookRightError as error:
            failures.append(f"run {name}: {error}")
    told = {name: result for name, result in results.items() if result is not None}
    if told:
        _write(Path(config.output), finished, told, trusted_by(config))
    for line in left_out:
        print(f"not answered: {line}")
    if failures:
        raise LookRightError("\n".join([f"{len(failures)} of {len(configs)} runs failed", *failures]))
    return told


def _config_of(config: DictConfig, run: Run) -> DictConfig:
    one = config.copy()
    one.run, one.output = str(run.folder), str(Path(config.output) / run.name)
    return one


def _check_all(configs: Mapping[str, DictConfig], check: Callable[[DictConfig], Any]) -> None:
    """Raise ConfigError with the problems of all runs, each line once."""
    lines: list[str] = []
    for one in configs.values():
        try:
            check(one)
        except LookRightError as error:
            lines += [line for line in str(error).split("\n") if line not in lines]
    if lines:
        raise ConfigError("\n".join(lines))


def _why(run: Run) -> str:
    return f"run {run.name} is {run.state}{f' ({run.detail})' if run.detail else ''}"


def _write(output: Path, runs: Sequence[Run], results: Results, trusted: Collection[str]) -> None:
    """One table of all runs: for people, with the first numbers, and as csv."""
    answered = [run for run in runs if run.name in results]
    keys = differing_keys(answered)
    columns = metrics_of_run(output / answered[0].name, trusted).columns
    shown = [column for column in columns if column.field == "value"]
    groups = [(column, group) for column in shown for group in (MULTI_IMAGE, SINGLE_IMAGE)]
    groups = [
        (column, group) for column, group in groups if any(_entry(one, column, group) for one in results.values())
    ]
    names = [f"{column.key}/{group}" for column, group in groups]
    rows: list[list[Cell | str]] = [
        [run.name, *_settings(run, keys), *(_cell(results[run.name], *place) for place in groups)] for run in answered
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["run", *keys, *(f"{column.key}/{group}{end}" for column, group in groups for end in _ENDS.values())]
    )
    for run in answered:
        numbers = [_entry(results[run.name], *place).get(end) for place in groups for end in _ENDS]
        writer.writerow([run.name, *_settings(run, keys), *numbers])
    told = markdown(Table(head=["Run", *keys, *names], rows=rows))
    for name, content in zip(TABLE_FILES, (text.getvalue(), told), strict=True):
        write_atomically(output / name, [content])
    print(f"{told}wrote {', '.join(str(output / name) for name in TABLE_FILES)}")


_ENDS = {"value": "", "low": " low", "high": " high"}


def _settings(run: Run, keys: Sequence[str]) -> Iterator[str]:
    settings = (run.given or {}) | run.settings
    return (shown_setting(settings.get(key)) for key in keys)


def _entry(result: Mapping[str, Any], column: Column, group: str) -> Mapping[str, Any]:
    """Value, low and high of a metric; empty where it is not known."""
    found = result.get(column.key, {}).get(group)
    return found if isinstance(found, Mapping) and found.get("value") is not None else {}


def _cell(result: Mapping[str, Any], column: Column, group: str) -> Cell | str:
    entry = _entry(result, column, group)
    if not entry:
        return "-"
    return with_range(entry, column.digits) if "low" in entry else f"{entry['value']:.{column.digits}f}"
