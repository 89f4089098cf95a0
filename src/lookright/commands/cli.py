"""The commands as a command line starts them: the config is composed first, and then the command is imported.

Help, completion and what Hydra refuses (a misspelt key, group or option) need no torch, and come before it.
"""

import sys
from functools import partial
from importlib import import_module
from typing import Any

import hydra
from hydra.types import TaskFunction
from omegaconf import DictConfig

from lookright.config.entry import ended_in_job, launch
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.help import asked_for_help, print_help


def start(name: str, job: TaskFunction | None = None, module: str | None = None) -> None:
    """Run the command as `sys.argv` says; `job` is that of its module where this is imported already.

    `module` is where it is where not in `lookright.commands`.
    """
    if asked_for_help(sys.argv[1:]):
        launch(partial(print_help, name, sys.argv[1:]), name)
        return
    decorate = hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name=name)
    job = job or _imported(module or f"lookright.commands.{name}")
    launch(decorate(ended_in_job(job, name)), name)


def _imported(module: str) -> TaskFunction:
    """The `job` of a command's module, which is imported when it is called."""

    def job(config: DictConfig) -> Any:
        return import_module(module).job(config)

    # what Hydra names a job by, and a launcher starts one by
    job.__module__ = module
    return job


generate = partial(start, "generate")
train = partial(start, "train")
infer = partial(start, "infer")
tune_adaptive = partial(start, "tune_adaptive")
