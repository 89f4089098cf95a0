"""A sweep as SLURM job arrays: the script, sbatch and what it refuses, and how the jobs fare."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lookright.errors import ConfigError
from lookright.launching.jobs import Job, Launch, Resources, write

REFUSALS = {
    r"[Ii]nvalid partition": "hydra.launcher.partition={partition} does not exist; valid: {partitions}",
    r"[Ii]nvalid account": "hydra.launcher.account={account} may not be used (here or in partition {partition}); "
    "sacctmgr show associations user=$USER lists those that may",
    r"[Ii]nvalid qos": "hydra.launcher.qos={qos} may not be used",
    r"generic resource \(gres\)": "no node of partition {partition} has {gpus} GPUs{kind}; set trainer=cpu or "
    "device=cpu, trainer.devices, hydra.launcher.gpu_type, or another hydra.launcher.partition",
    r"[Ii]nvalid feature": "hydra.launcher.constraint={constraint} is no feature of any node there",
    r"(More processors|[Nn]ode count|node configuration|Memory) .*": "no node has what a job asks for: {asked}; set "
    "hydra.launcher.mem, cpus_per_task, partition, or the trainer's devices and num_nodes",
    r"time limit|--time": "hydra.launcher.time={time} is no time, or longer than is allowed there; set minutes, or "
    "days-hours:minutes:seconds",
    r"[Uu]nable to contact slurm controller|[Cc]onnection refused": "SLURM does not answer; try again later",
}
"""What sbatch says, and what to do about it; its own words follow."""


@dataclass(slots=True, frozen=True, kw_only=True)
class SlurmOptions:
    """What is asked of SLURM for every job; None leaves it to the cluster. See `conf/hydra/launcher/slurm.yaml`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | int | None = None
    mem: str | int | None = None
    cpus_per_task: int | None = None
    gpu_type: str | None = None
    parallel: int | None = None
    setup: Sequence[str] = ()
    options: Mapping[str, str | int] = field(default_factory=dict)
    signal_ahead: int = 120
    name: str = "lookright"

    def __post_init__(self) -> None:
        if self.signal_ahead < 30:
            raise ConfigError(
                f"hydra.launcher.signal_ahead={self.signal_ahead}; set 30 or more seconds: a job saves then"
            )
        if self.parallel is not None and self.parallel < 1:
            raise ConfigError(f"hydra.launcher.parallel={self.parallel}; set 1 or more, or null")


def directives(options: SlurmOptions, launch: Launch, jobs: Sequence[Job]) -> dict[str, str]:
    """Long options of sbatch for jobs of the same resources."""
    needed = jobs[0].resources
    gpus = f"gpu:{options.gpu_type}:" if options.gpu_type else "gpu:"
    bound = "" if options.parallel is None else f"%{options.parallel}"
    values = {
        "job-name": options.name,
        "array": array([job.num for job in jobs]) + bound,
        "chdir": launch.cwd,
        "output": str(launch.folder).replace("%", "%%") + "/%a.log",
        "open-mode": "append",
        "nodes": needed.nodes,
        "ntasks-per-node": needed.tasks_per_node,
        "cpus-per-task": options.cpus_per_task,
        "gres": f"{gpus}{needed.gpus_per_node}" if needed.gpus_per_node else None,
        "mem": options.mem,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        # to the batch script alone, whose supervisor hands it on; SLURM may be a minute early
        "signal": f"B:USR1@{options.signal_ahead}",
        "requeue": "",
        "export": "ALL",
    } | dict(options.options)
    return {key: str(value) for key, value in values.items() if value is not None}


def array(numbers: Sequence[int]) -> str:
    """Numbers as SLURM writes them: `0-3,7`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def script(options: SlurmOptions, launch: Launch, jobs: Sequence[Job]) -> str:
    """The batch script of an array."""
    asked = [
        f"#SBATCH --{key}={value}" if value else f"#SBATCH --{key}"
        for key, value in directives(options, launch, jobs).items()
    ]
    supervise = [launch.python, "-m", "lookright.launching.supervise", str(launch.folder)]
    # exec: the signal that SLURM sends to the script reaches the supervisor
    start = f"exec {shlex.join(supervise)} $SLURM_ARRAY_TASK_ID"
    return "\n".join(["#!/bin/bash", *asked, *options.setup, start, ""])


def submit(options: SlurmOptions, launch: Launch) -> dict[int, str]:
    """Submit the jobs, an array for each kind of resources; returns SLURM's id of each and writes `slurm.json`.

    Raises ConfigError with what sbatch refuses; nothing stays submitted then.
    """
    ids: dict[int, str] = {}
    kinds: dict[Resources, list[Job]] = {}
    for job in launch.jobs:
        kinds.setdefault(job.resources, []).append(job)
    try:
        for number, jobs in enumerate(kinds.values()):
            path = launch.folder / f"job{number or ''}.sh"
            path.write_text(script(options, launch, jobs), encoding="utf-8")
            name = _sbatch(path, options, launch, jobs)
            ids |= {job.num: f"{name}_{job.num}" for job in jobs}
    except ConfigError:
        cancel(ids)
        raise
    write(launch.folder / "slurm.json", ids)
    return ids


def _sbatch(path: Path, options: SlurmOptions, launch: Launch, jobs: Sequence[Job]) -> str:
    """The id that SLURM gives."""
    given = directives(options, launch, jobs)
    command = ["sbatch", "--parsable", str(path)]
    done = ask(command, environment=clean_environment(os.environ, given))
    if done.returncode == 0:
        return done.stdout.strip().partition(";")[0]
    raise ConfigError(refusal(done.stderr, options, jobs[0].resources))


def clean_environment(environment: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Without what an enclosing job says of itself, and what would overrule the script."""
    ruled = {f"SBATCH_{key.upper().replace('-', '_')}" for key in given}
    return {
        name: value
        for name, value in environment.items()
        if name not in ruled and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }


def refusal(words: str, options: SlurmOptions, needed: Resources) -> str:
    """What sbatch refused, in a sentence that says what to set."""
    values = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "time": options.time,
        "gpus": needed.gpus_per_node,
        "kind": f" of type {options.gpu_type}" if options.gpu_type else "",
        "asked": f"{needed.nodes} nodes, {needed.tasks_per_node} x {options.cpus_per_task or 1} CPUs, "
        f"{needed.gpus_per_node} GPUs and mem={options.mem} on each",
        "partitions": "",
    }
    said = " ".join(re.sub(r"sbatch: (error: )?", "", words).split())
    for pattern, text in REFUSALS.items():
        if re.search(pattern, said):
            if "{partitions}" in text:
                values["partitions"] = ", ".join(sorted(set(ask(["sinfo", "-h", "-o", "%R"]).stdout.split())))
            return f"hydra/launcher=slurm: {text.format(**values)} (sbatch: {said})"
    return f"hydra/launcher=slurm: sbatch refuses the jobs: {said}"


def offers_gpus(partition: str | None) -> bool:
    """Whether any node of the partition, None for all, has GPUs."""
    where = [] if partition is None else [f"--partition={partition}"]
    return "gpu" in ask(["sinfo", "--noheader", *where, "--format=%G"]).stdout


def arrays(ids: Mapping[int, str]) -> list[str]:
    """The ids of the arrays that jobs are in."""
    return sorted({name.partition("_")[0] for name in ids.values()}, key=lambda name: (len(name), name))


def cancel(ids: Mapping[int, str]) -> None:
    """Take jobs out of the queue."""
    if ids:
        ask(["scancel", *arrays(ids)])


def states(ids: Mapping[int, str]) -> dict[int, tuple[str, str]] | None:
    """SLURM's word for each job and why it waits; jobs that SLURM has forgotten are left out.

    None where SLURM does not answer, as while its controller restarts: that says nothing of the jobs.
    """
    command = [
        "squeue",
        f"--jobs={','.join(arrays(ids))}",
        "--states=all",
        "--array",
        "--noheader",
        "--format=%F_%K %T %r",
    ]
    told = ask(command)
    # the word for a job, or jobs, that ended long ago
    if told.returncode and "Invalid job id" not in told.stderr:
        return None
    lines = [line.split(maxsplit=2) for line in told.stdout.splitlines() if line.strip()]
    found = {name: (state, reason) for name, state, reason in lines}
    return {num: found[name] for num, name in ids.items() if name in found}


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's programs. Raises ConfigError where it is not installed."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    except FileNotFoundError as error:
        raise ConfigError(
            f"hydra/launcher=slurm: {command[0]} is not here; run it where sbatch is, on a login node of the cluster, "
            "or set hydra/launcher=local"
        ) from error
