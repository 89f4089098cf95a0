"""What a launch puts on disk: the jobs of a sweep, and how far each of them is. Imports nothing heavy.

A launch has a folder of its own, `SWEEP/launch/1`, `2`, ...: `jobs.json`, for each job `0.log` and `0.json`, and for
SLURM the script that was submitted. `0.json` is written by the job's supervisor alone (`launching.supervise`).
"""

import json
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lookright.common.strict_json import read_json
from lookright.errors import ConfigError

Read = TypeVar("Read")

EXIT_STOPPED = 143
"""Of a job that was stopped by a signal and can go on: 128 + SIGTERM, as a shell says it."""
GO_ON = "LOOKRIGHT_GO_ON"
"""Environment variable with the output folder that this very job wrote to before it was stopped."""
WAITING, RUNNING, STOPPED, FINISHED, FAILED = "waiting", "running", "stopped", "finished", "failed"
ENDED = (FINISHED, FAILED)


@dataclass(slots=True, frozen=True, kw_only=True)
class Resources:
    """What a job takes: nodes, processes on each, GPUs on each."""

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0

    @property
    def tasks(self) -> int:
        """Processes in all."""
        return self.nodes * self.tasks_per_node


@dataclass(slots=True, frozen=True, kw_only=True)
class Job:
    """One job of a sweep.

    `num` is Hydra's job number, `overrides` its command line, `swept` the part of it to show; `shared` says that
    shards write to the same folder.
    """

    num: int
    overrides: list[str]
    swept: list[str]
    folder: str
    resources: Resources = field(default_factory=Resources)
    shared: bool = False

    @property
    def error_file(self) -> Path:
        """Where its error is written when it fails."""
        return Path(self.folder) / (f"error_{self.num}.txt" if self.shared else "error.txt")


@dataclass(slots=True, frozen=True, kw_only=True)
class Status:
    """How far a job is, as its supervisor saw it last.

    `starts` counts attempts; `error` is there where `state` is failed; `where` is its host, `pid` its supervisor's.
    """

    state: str
    starts: int = 1
    exit_code: int | None = None
    error: str | None = None
    where: str = ""
    pid: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class Launch:
    """The jobs of one launch, and how their command is run.

    `module` is the command's, `flags` what its command line says before overrides, `path` the folder that Python
    looked for modules in first, `grace` the seconds between a signal ahead of a time limit and the limit; `host` and
    `pid` are the launcher's.
    """

    folder: Path
    module: str
    python: str
    cwd: str
    path: str
    jobs: list[Job]
    flags: list[str] = field(default_factory=list)
    grace: int = 0
    max_requeues: int = 0
    cpus_per_task: int | None = None
    host: str = ""
    pid: int = 0

    @property
    def sweep(self) -> Path:
        """The folder of the sweep."""
        return self.folder.parents[1]

    def save(self) -> None:
        """Write `jobs.json`."""
        write(self.folder / "jobs.json", asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def load(cls, folder: Path) -> "Launch":
        """Read what `save` wrote, of a sweep that may have been moved since. Raises ConfigError naming the file."""
        folder = Path(os.path.abspath(folder))
        launch = _read(cls, folder / "jobs.json")
        before, now = launch.folder.parents[1:2], folder.parents[1]
        jobs = [
            replace(job, folder=str(now / Path(job.folder).relative_to(before[0])))
            if before and Path(job.folder).is_relative_to(before[0])
            else job
            for job in launch.jobs
        ]
        return replace(launch, folder=folder, jobs=jobs)

    def job(self, num: int) -> Job:
        """The job of a number."""
        return next(job for job in self.jobs if job.num == num)

    def log(self, num: int) -> Path:
        """What a job prints, attempt after attempt."""
        return self.folder / f"{num}.log"

    def status(self, num: int) -> Status | None:
        """How far a job is, None before its first start. Raises ConfigError naming a damaged file."""
        path = self.folder / f"{num}.json"
        return _read(Status, path) if path.is_file() else None

    def set_status(self, num: int, status: Status) -> None:
        """Replace it as a whole: a reader never sees half of it."""
        write(self.folder / f"{num}.json", asdict(status))

    def slurm_ids(self) -> dict[int, str]:
        """SLURM's id `ARRAY_TASK` of each job; empty on one machine, and before all are submitted."""
        path = self.folder / "slurm.json"
        return _read(dict[int, str], path) if path.is_file() else {}


def write(path: Path, value: Any) -> None:
    """Write json beside its target and rename it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(kind: type[Read], path: Path) -> Read:
    """What `write` wrote. Raises ConfigError naming the file where it is something else."""
    from pydantic import TypeAdapter, ValidationError

    remedy = "write it back as the launcher wrote it, or move the folder of this launch away"
    value = read_json(path, remedy)
    try:
        # by way of json, in which a path is a text and a number may be a key
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place or 'the value'}: {first['msg'].lower()}; {remedy}") from error


def new_folder(sweep: Path) -> Path:
    """Make the next launch's folder below a sweep's."""
    number = 1
    while True:
        folder = sweep / "launch" / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def launches(sweep: Path) -> list[Path]:
    """The folders of all launches of a sweep, in their order; a launch's own folder is itself."""
    if (sweep / "jobs.json").is_file():
        return [sweep]
    found = (path.parent for path in sweep.glob("launch/*/jobs.json") if path.parent.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name))


def is_gone(host: str, pid: int) -> bool:
    """Whether a process has ended; of another machine's nobody can tell."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        # somebody else's
        return False
    return pid == 0


def went_before(folder: str | Path) -> bool:
    """Whether this very job was writing to the folder when it was stopped, and is to go on in it."""
    mine = os.environ.get(GO_ON)
    return mine is not None and Path(mine) == Path(folder).absolute()


def objective_in(folder: Path) -> float | None:
    """What a finished run was told to optimise; None where there is no run, or it has none."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    value: float | None = summary.get("objective", {}).get("value")
    return value


def shown(overrides: Iterable[str]) -> str:
    """A job's swept keys for a table."""
    return " ".join(overrides) or "-"


def same_in_all(overrides: Sequence[Sequence[str]]) -> set[str]:
    """Overrides that every job of a sweep has, which tell none of them apart."""
    return set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
