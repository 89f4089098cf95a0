"""From what a sweeper asks for to jobs: config, folder and resources of each, all problems told before any starts."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lookright.config.check import check_config
from lookright.config.entry import is_shard, sweep_output
from lookright.config.runs import NOTHING, read_config, repeated_config
from lookright.config.swept import key_of, swept_keys
from lookright.errors import ConfigError
from lookright.launching.jobs import Job, same_in_all
from lookright.launching.resources import resources_of

OURS = re.compile(r"[+~]*hydra([./](launcher|sweep|sweeper|run)\b|\.mode=)")
"""Overrides of Hydra that are the sweep's alone, and no job's."""
OUTPUT = re.compile(r"[+]*output=")


class Planner:
    """Makes the jobs of one call of a launcher, with the config of the whole sweep."""

    def __init__(self, config: DictConfig, context: HydraContext, gpus_per_node: int | None) -> None:
        self.config = config
        self.context = context
        self.gpus_per_node = gpus_per_node

    def jobs(self, sweep: Sequence[Sequence[str]], first_num: int, offers_gpus: Callable[[], bool]) -> list[Job]:
        """A job for each list of overrides. Raises ConfigError with the problems of all."""
        common, searched = same_in_all(sweep), self._swept_keys()
        jobs, problems = [], []
        for num, overrides in enumerate(sweep, start=first_num):
            swept = [item for item in overrides if item not in common]
            # a search may have one job a launch, or two that drew the same value
            swept = [item for item in overrides if key_of(item) in searched] if searched else swept
            try:
                jobs.append(self._job(num, list(overrides), swept, offers_gpus))
            except ConfigError as error:
                problems += [line for line in str(error).split("\n") if line not in problems]
        problems += collisions(jobs)
        if problems:
            raise ConfigError("\n".join(problems))
        return jobs

    def _swept_keys(self) -> set[str]:
        """Keys that the whole sweep gives several values."""
        params = self.config.hydra.sweeper.get("params") or {}
        return swept_keys(self.config.hydra.overrides.task) | {key.lstrip("+") for key in params}

    def _job(self, num: int, overrides: list[str], swept: list[str], offers_gpus: Callable[[], bool]) -> Job:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = num
            config.hydra.job.id = str(num)
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        resumed = task.get("resume") if isinstance(task.get("resume"), str) else None
        if task.get("repeat") is not None and resumed is None:
            task = repeated_config(task, overrides)
        if resumed is None:
            check_config(task)
        folder = os.path.abspath(sweep_output(task, config.hydra))
        saved = read_config(resumed, "resume", builds=NOTHING) if resumed else task
        resources = resources_of(saved, self.gpus_per_node, offers_gpus)
        own = [item for item in overrides if not OUTPUT.match(item)]
        if resumed is None:
            own.append(f"output={quoted(folder)}")
            if str(OmegaConf.select(task, "trainer.devices")) in ("auto", "-1"):
                # behind what was given, which it goes before
                own.append(f"trainer.devices={resources.tasks_per_node}")
        kept = [item for item in self.config.hydra.overrides.hydra if not OURS.match(item)]
        return Job(
            num=num,
            overrides=[*own, *kept, f"hydra.job.num={num}", f"hydra.job.id='{num}'", "hydra.mode=RUN"],
            swept=swept,
            folder=folder,
            resources=resources,
            shared=is_shard(task),
        )


def collisions(jobs: Sequence[Job]) -> list[str]:
    """A line for each two jobs that would write to one folder; shards may, each its own part."""
    seen: dict[tuple[str, ...], Job] = {}
    lines = []
    for job in jobs:
        shard = [item for item in job.overrides if item.startswith("shard.index=")] if job.shared else []
        other = seen.setdefault((job.folder, *shard), job)
        if other is not job:
            lines.append(
                f"jobs {other.num} and {job.num} would both write to {job.folder}; set hydra.sweep.subdir to a name "
                "that tells them apart, such as ${hydra.job.num}, and each resume or shard.index once"
            )
    return lines


def quoted(value: str) -> str:
    """A value that Hydra's grammar takes as it is."""
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    return f"'{escaped}'"


def command_of(function: TaskFunction) -> str:
    """The module that runs a command. Raises ConfigError for a script that cannot be imported."""
    name: str | None = function.__module__
    if name == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        name = None if spec is None else spec.name
    if name is None:
        raise ConfigError("jobs are started as `python -m MODULE`, and this command is in a script; put it in a module")
    return name


def flags_of(config: DictConfig, folder: Path) -> list[str]:
    """What the command line said before its overrides: config name and folders beside ours."""
    flags = []
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line" and source.schema == "file":
            flags += ["--config-dir", os.path.abspath(source.path)]
        if source.provider == "main" and source.schema == "file" and Path(source.path) != folder:
            flags += ["--config-path", os.path.abspath(source.path)]
    name = config.hydra.job.config_name
    return flags if name is None else [*flags, "--config-name", name]
