"""The runs of `train.py` below a folder, as they are now: finished, running, failed, or not begun yet."""

import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lookright.common.locks import LOCK_FILE
from lookright.common.strict_json import read_object, short
from lookright.config.annotations import misfits
from lookright.config.folders import IN_CHECKOUT
from lookright.config.made_by import read_made_by, shown_path
from lookright.config.runs import CONFIG_FILE, EVAL_FOLDER, NOTHING, read_config
from lookright.errors import ConfigError
from lookright.launching.follow import View, Watch
from lookright.launching.jobs import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Job, Launch, is_gone, launches
from lookright.reports.training import Columns, read_columns

Setting = str | int | float | bool | None
"""The value of a key; a list is text."""
NOT_SETTINGS = ("output", "resume", "repeat")
"""Keys that say where a run lies, not what it is."""
NOT_REPEATED = re.compile(r"[+~]*(hydra[./]|(output|resume|repeat)=)")
OVERRIDE = re.compile(r"[+~]*([^=]+)=(.*)", re.DOTALL)
SUMMARY_KINDS = {
    "metrics": dict[str, float | None],
    "eval": dict[str, float | None],
    "objective": dict[str, str | float | None],
}
"""What a report takes of `summary.json`."""
HOLDER = re.compile(r"process (\d+) on (\S+) since")


@dataclass(slots=True, kw_only=True)
class Run:
    """One run.

    `settings` are the keys of its config, with dots; `given` those of its job's command line alone, None where no
    launcher of ours started it. `detail` says why it failed, or where it runs; `command` repeats it, up to `output=`.
    `summary` and `measured` (`eval/metrics.json`) are empty until they are written.
    """

    name: str
    folder: Path
    state: str
    detail: str = ""
    settings: dict[str, Setting] = field(default_factory=dict)
    given: dict[str, Setting] | None = None
    command: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    columns: Columns = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether all its numbers are there."""
        return self.state == FINISHED

    @property
    def values(self) -> dict[str, float]:
        """Every number that is known by now: `train/loss`, `val/loss`, `accuracy/multi_image` ..."""
        last = {name: points[-1][1] for name, points in self.columns.items()}
        told = {**self.summary.get("metrics", {}), **self.summary.get("eval", {})}
        # None is what came to no number in the end, whatever it was before
        return {name: value for name, value in (last | told).items() if value is not None}

    def entry(self, name: str) -> dict[str, Any] | None:
        """What `eval/metrics.json` says of `METRIC/GROUP`: value, low, high; None for what it does not tell."""
        key, _, group = name.rpartition("/")
        groups = self.measured.get(key)
        found = groups.get(group) if isinstance(groups, dict) else None
        has_interval = isinstance(found, dict) and not misfits([found.get("low"), found.get("high")], list[float])
        return found if has_interval else None


def read_runs(folder: Path) -> list[Run]:
    """All runs below a folder, numbers in their order. Raises ConfigError where there is none."""
    folder = Path(os.path.abspath(folder))
    jobs = {Path(job.folder): (launch, job, view) for launch, job, view in _jobs(folder)}
    found = set(_run_folders(folder))
    # an infer.py or generate.py of the same sweep is no run
    found |= {path for path in jobs if not (path / CONFIG_FILE).is_file()}
    runs = [_read(path, folder, jobs.get(path)) for path in found]
    if not runs:
        raise ConfigError(f"{folder} holds no run of train.py; name the folder of a sweep, or one above several runs")
    return sorted(runs, key=lambda run: natural(run.name))


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key by which 10 comes after 9, and numbers before words."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(0, float(part), "") if place % 2 else (1, 0.0, part) for place, part in enumerate(parts) if part]


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders with the config of a `train.py`; what lies below such a folder is its own."""
    for path, folders, files in os.walk(folder):
        if CONFIG_FILE in files and {"trainer", "loss"} <= set(_config(Path(path))):
            folders.clear()
            yield Path(path)


def _jobs(folder: Path) -> Iterator[tuple[Launch, Job, View]]:
    """The jobs of all launches of a sweep; of two with one folder the later one counts.

    One that goes on with a folder has the command line of the one that began it.
    """
    begun: dict[str, Job] = {}
    for place in launches(folder):
        launch = Launch.load(place)
        views = _views(launch)
        for job in (one for one in launch.jobs if not one.shared):
            goes_on = any(item.startswith("resume=") for item in job.overrides)
            begun[job.folder] = begun.get(job.folder, job) if goes_on else job
            yield launch, begun[job.folder], views[job.num]


def _views(launch: Launch) -> dict[int, View]:
    """Every job as it is now; where SLURM cannot be asked, as its supervisor saw it last."""
    try:
        return Watch(launch, patience=1).look()
    except ConfigError as error:
        statuses = {job.num: launch.status(job.num) for job in launch.jobs}
        return {
            num: View(WAITING, str(error)) if one is None else View(one.state, one.error or str(error))
            for num, one in statuses.items()
        }


def _read(folder: Path, sweep: Path, launched: tuple[Launch, Job, View] | None) -> Run:
    launch, job, view = launched or (None, None, None)
    config, summary = _config(folder), _json(folder / "summary.json")
    name = str(folder.relative_to(sweep)) if folder.is_relative_to(sweep) else str(folder)
    run = Run(
        name=sweep.name if name == "." else name,
        folder=folder,
        state=FINISHED,
        settings={key: value for key, value in _flat(config, str(folder)) if key not in NOT_SETTINGS},
        summary=summary,
        columns=read_columns(folder / "metrics.csv"),
    )
    if job is not None and launch is not None:
        run.given = dict(_given(job.overrides))
        run.command = _command(launch.flags, job.overrides, folder)
    else:
        run.command = _typed_command(folder)
    # versions before eval= wrote no objective
    if summary and ("objective" in summary or config.get("eval") is None):
        run.measured = _json(folder / EVAL_FOLDER / "metrics.json")
        return run
    run.state, run.detail = _state_on_disk(folder)
    # what a launcher left may be gone on with by hand, here
    if view is not None and (run.state, run.detail) != (RUNNING, socket.gethostname()):
        run.state, run.detail = view.state, view.detail
    if run.state == FINISHED:
        run.state, run.detail = FAILED, "it ended without summary.json"
    run.detail = run.detail.strip().split("\n")[0]
    return run


def _state_on_disk(folder: Path) -> tuple[str, str]:
    """State and detail of a run that no launcher of ours started, and that is not finished."""
    lock = folder / LOCK_FILE
    held = HOLDER.match(lock.read_text(errors="replace")) if lock.is_file() else None
    if held is not None and not is_gone(held[2], int(held[1])):
        return RUNNING, held[2]
    error = folder / "error.txt"
    if error.is_file():
        return FAILED, error.read_text(encoding="utf-8", errors="replace")
    return STOPPED, f"go on with: python train.py resume={shown_path(str(folder))}"


def _given(overrides: Sequence[str]) -> Iterator[tuple[str, Setting]]:
    """Keys and values of a command line."""
    for item in overrides:
        found = OVERRIDE.fullmatch(item)
        if found is not None and not NOT_REPEATED.match(item):
            try:
                value = yaml.safe_load(found[2])
            except yaml.YAMLError:
                value = found[2]
            yield found[1], value if isinstance(value, Setting) else found[2]


def _typed_command(folder: Path) -> str | None:
    """The command that a run says it was made by; None where a program called it, or where it went on."""
    record = read_made_by(folder)
    words = [] if record is None or ", called from" in record.command else shlex.split(record.command)
    if not words or any(word.startswith("resume=") for word in words):
        return None
    if any(word.startswith("repeat=") for word in words):
        return _repeating(folder)
    start = next(place for place, word in enumerate(words) if word.endswith(("train.py", "lookright-train"))) + 1
    return shlex.join([*words[:start], *(word for word in words[start:] if not NOT_REPEATED.match(word))])


def _command(flags: Sequence[str], overrides: Sequence[str], folder: Path) -> str:
    """A job's command line as one would type it."""
    if any(item.startswith("repeat=") for item in overrides):
        return _repeating(folder)
    shown = list(flags[:-2] if flags[-2:] == ["--config-name", "train"] else flags)
    start = ["python", "train.py"] if IN_CHECKOUT else ["lookright-train"]
    return shown_path(shlex.join([*start, *shown, *(item for item in overrides if not NOT_REPEATED.match(item))]))


def _repeating(folder: Path) -> str:
    """The command for a run that repeats another one: of its own folder, which has all of its config."""
    start = ["python", "train.py"] if IN_CHECKOUT else ["lookright-train"]
    return shown_path(shlex.join([*start, f"repeat={folder}"]))


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        return {}
    plain: Any = OmegaConf.to_container(read_config(folder, "folder", builds=NOTHING))
    return plain


def _json(path: Path) -> dict[str, Any]:
    remedy = "make it again, or move its run away"
    found = read_object(path, remedy) if path.is_file() else {}
    for key, kind in SUMMARY_KINDS.items():
        for one in misfits(found.get(key, {}), kind):
            place = ".".join([key, *map(str, one.path)])
            raise ConfigError(f"{path}: {place}={short(one.value)} is not {one.wanted}; {remedy}")
    return found


def _flat(node: Any, folder: str, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Keys with dots and their values; paths in the run's own folder are the same for all runs."""
    if isinstance(node, Mapping) and (node or not prefix):
        for key, value in node.items():
            yield from _flat(value, folder, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, Setting) and not isinstance(node, str):
        yield prefix, node
    else:
        yield prefix, str(node).replace(folder, "")
