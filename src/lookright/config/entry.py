"""Runs a Hydra command so that a user's mistake ends in a message, not in a traceback."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lookright.common.files import fault
from lookright.common.stopping import interrupting, stop_with_starter, stopped
from lookright.config import schema
from lookright.config.check import RESERVED, nearest_of, own_error, unknown_key
from lookright.config.console import quiet
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.renamed import new_names
from lookright.errors import ConfigError, LookRightError, Stopped

EXIT_USER_ERROR = 2
OVERRIDE = re.compile(r"[+~]{0,2}[\w./@-]+=")
"""How an argument begins that sets something, and is no flag."""
MULTIRUN = ("-m", "--multirun")


def launch(main: Callable[[], None], config_name: str, folder: Path = CONFIG_FOLDER) -> None:
    """Call a `hydra.main` function; errors that are the user's are printed and end with status 2.

    A command that a signal stopped says how to go on, and ends with 143, or with 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits before the valid names are added
    quiet()
    stop_with_starter()
    schema.register()
    # argparse takes no second lot of overrides behind a flag
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    with ending(partial(explain, config_name=config_name, folder=folder)), _choices_explained(folder):
        main()


@contextmanager
def _choices_explained(folder: Path) -> Iterator[None]:
    """Turn what Hydra says of a group that is given a number or a mapping into the valid names. Raises ConfigError."""
    try:
        yield
    except ValueError as error:
        if "Config group override must be a string or a list" not in str(error):
            raise
        raise ConfigError(_wrong_choices(folder) or str(error)) from error


@contextmanager
def ending(explain_config: Callable[[Exception], str] = str) -> Iterator[None]:
    """Inside, what a user, a signal or a disk ends is told in a sentence, and ends the process with an honest status.

    2 for an error that somebody can mend, 143 after a signal, 130 after Ctrl-C. `explain_config` words Hydra's errors.
    """
    try:
        with interrupting():
            yield
    except KeyboardInterrupt as error:
        _leave(stopped(error, "start it again with the same command"))
    except Stopped as error:
        _leave(error)
    except LookRightError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain_config(error))
    except OSError as error:
        told = fault(error)
        if told is None:
            raise
        _fail(told)


def ended_in_job(job: TaskFunction, config_name: str) -> TaskFunction:
    """The job, in which all ends as `ending` says before Hydra hears of it, which would tell of a failed job first.

    In a sweep an error stays one, since the sweep's other jobs go on; a signal ends the sweep.
    """

    @wraps(job)
    def run(config: DictConfig) -> Any:
        if HydraConfig.get().mode == RunMode.RUN:
            with ending(partial(explain, config_name=config_name)), _no_empty_folder():
                return job(config)
        try:
            return job(config)
        except Stopped as error:
            _leave(error)

    return run


@contextmanager
def _no_empty_folder() -> Iterator[None]:
    """Remove the folder that Hydra made for a job that wrote nothing there: it was refused, or plans alone."""
    try:
        yield
    finally:
        folder = Path(HydraConfig.get().runtime.output_dir)
        with suppress(OSError):
            if folder != Path.cwd():
                folder.rmdir()


def with_output(config: DictConfig) -> DictConfig:
    """The config with `output` filled in where it is null: the folder that Hydra made for this job.

    In a sweep it is a folder of each job's own below `output`; see `sweep_output`.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        config.output = sweep_output(config, HydraConfig.get())
    elif config.output is None:
        config.output = HydraConfig.get().runtime.output_dir
    return config


def sweep_output(config: DictConfig, hydra: DictConfig | HydraConf) -> str:
    """The output folder of one job of a sweep, whose own part of the config `hydra` is.

    No two jobs write to one folder: below `output`, or Hydra's folder of the sweep, each has its own. Shards of
    `generate.py` share theirs, and a run that goes on stays where it is.
    """
    if isinstance(config.get("resume"), str):
        return config.resume
    folder = hydra.sweep.dir
    return str(folder) if is_shard(config) else str(Path(folder) / str(hydra.sweep.subdir))


def is_shard(config: DictConfig) -> bool:
    """Whether the job makes a part of what several make together."""
    return OmegaConf.select(config, "shard.count", default=1) > 1


def given_overrides() -> list[str]:
    """What the command line set, as `key=value`; nothing where a config was composed by hand."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def explain(error: Exception, config_name: str, folder: Path = CONFIG_FOLDER) -> str:
    """Hydra's message, with the valid names where a key does not exist; our own message where one is inside."""
    own = own_error(error)
    if own is not None:
        return str(own)
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    text = "\n".join(dict.fromkeys(str(part).split("\nConfig search path")[0].rstrip() for part in chain))
    given = re.search(r"Could not override '([\w.]+)'", text)
    lost = re.search(r"Could not load '([\w/]+)/(\w+)'", text)
    if lost is not None:
        return f"{lost[1]}={lost[2]} does not exist; {nearest_of(lost[2], _options(folder, lost[1]))}"
    found = re.search(r"full_key: ([\w.]+)", text) or given
    if found is None or ("is not in struct" not in text and "not in '" not in text):
        return text
    config = _composed(config_name, folder)
    renamed = new_names((given or found)[1], [str(name) for name in config])
    if renamed is not None:
        return renamed
    parent = found[1].rpartition(".")[0]
    holder = OmegaConf.select(config, parent) if parent else config
    deeper = [path for path in _paths(holder, parent) if path.rpartition(".")[0] != parent]
    beside = [str(name) for name in holder if str(name) not in RESERVED] if OmegaConf.is_dict(holder) else []
    return unknown_key(found[1], beside, deeper)


def _wrong_choices(folder: Path) -> str:
    """What to say of groups that the command line gave a number or null: Hydra takes names of files."""
    lines = []
    for one in OverridesParser.create().parse_overrides([item for item in sys.argv[1:] if OVERRIDE.match(item)]):
        names = _options(folder, one.key_or_group)
        if names and not isinstance(one.value(), str | list | QuotedString):
            lines.append(f"{one.input_line} names no file of {one.key_or_group}; {nearest_of(str(one.value()), names)}")
    return "\n".join(lines)


def _options(folder: Path, group: str) -> list[str]:
    """Files of a config group of ours."""
    return sorted(file.stem for file in (folder / group).glob("*.yaml"))


def _composed(config_name: str, folder: Path) -> DictConfig:
    """The config with the groups that the command line chose; without them where these cannot be composed."""
    chosen = [
        argument for argument in sys.argv[1:] if re.fullmatch(r"\+?[a-z_/]+=[\w\[\],]+|hydra\.searchpath=.+", argument)
    ]
    for overrides in (chosen, []):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(folder), version_base="1.3"), suppress(HydraException):
            return compose(config_name, overrides)
    return OmegaConf.create()


def _paths(node: Any, path: str) -> Iterator[str]:
    """Dotted paths of all keys below a node that are no references."""
    if OmegaConf.is_dict(node):
        for name in node:
            place = f"{path}.{name}" if path else str(name)
            yield place
            if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
                yield from _paths(node[name], place)


def _leave(error: Stopped) -> NoReturn:
    if not error.started_by_run:
        print(error, file=sys.stderr)
    sys.exit(error.exit_code)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
