"""A search by Optuna: trials as jobs of whatever launcher there is, begun again where they were killed."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import InstantiationException
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from lookright.config.check import Problems, check_config
from lookright.config.entry import sweep_output
from lookright.config.folders import CONFIG_FOLDER, IN_CHECKOUT
from lookright.config.made_by import shown_path
from lookright.config.runs import OBJECTIVE
from lookright.errors import ConfigError, LookRightError, Stopped
from lookright.launching.follow import follow_out
from lookright.launching.jobs import objective_in
from lookright.launching.planning import flags_of, quoted
from lookright.launching.space import check_space, overrides_of, read_space
from lookright.launching.study import ERROR, FOLDER, HOST, PID, STUDY_FILE, SharedStudy
from lookright.training.checkpoints import newest_whole

DIRECTIONS = ("minimize", "maximize")
NOT_REPEATED = ("hydra.", "hydra/", "output=", "resume=")
"""Overrides that say how and where a search runs, not what its trials are."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """The keys of `conf/hydra/sweeper/optuna.yaml`."""

    direction: str | None
    n_trials: int
    n_jobs: int
    sampler: dict[str, Any]
    storage: str | None
    study_name: str | None
    params: dict[str, Any]


class Search:
    """One call of `-m hydra/sweeper=optuna`. Raises ConfigError for keys that are wrong."""

    def __init__(
        self, settings: Settings, context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        _check_keys(settings, config)
        self.settings, self.config, self.task_function = settings, config, task_function
        self.loader = context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def run(self, arguments: Sequence[str]) -> float | None:
        """Search until all trials have ended; returns the best value.

        Raises ConfigError before any trial for a space or a study that cannot be, and LookRightError where no trial
        finished. A job that fails is noted and ends nothing.
        """
        study = self._open(arguments)
        for trials in _in_a_row(self._left_over(study)):
            self._run(study, trials, goes_on=True)
        while trials := study.ask(self.settings.n_jobs, self.settings.n_trials):
            self._run(study, trials)
        return self._end(study)

    def _open(self, arguments: Sequence[str]) -> SharedStudy:
        """Read the space, try it on the config, open the study."""
        lines = [*(f"{key}={value}" for key, value in self.settings.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.loader)
        self.fixed, self.space = read_space(parser.parse_overrides(lines))
        check_space(self.space, lambda overrides: check_config(self._task([*self.fixed, *overrides])))
        first = [one.override(one.probes[0]) for one in self.space]
        self.objective, direction = _judged_by(self._task([*self.fixed, *first]), self.settings.direction)
        folder = Path(self.config.hydra.sweep.dir).absolute()
        storage = folder / STUDY_FILE if self.settings.storage is None else Path(self.settings.storage).absolute()
        study = SharedStudy(
            folder,
            storage=storage,
            name=self.settings.study_name or folder.name,
            direction=direction,
            space=self.space,
            fixed=_repeated(self.fixed),
            make_sampler=self._make_sampler,
            place=self._place,
        )
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return study

    def _make_sampler(self, num_before: int) -> BaseSampler:
        options = dict(self.settings.sampler)
        if not options:
            return TPESampler(seed=num_before)
        if isinstance(options.get("seed"), int):
            options["seed"] += num_before
        try:
            sampler: BaseSampler = instantiate(options, _convert_="all")
        except InstantiationException as error:
            raise ConfigError(f"hydra.sweeper.sampler: {error.__cause__ or error}") from error
        return sampler

    def _task(self, overrides: Sequence[str]) -> DictConfig:
        return _without_hydra(self.loader.load_sweep_config(self.config, list(overrides)))

    def _overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *overrides_of(self.space, values)]

    def _place(self, number: int, values: Mapping[str, Any]) -> str:
        """The folder of a trial's run."""
        config = self.loader.load_sweep_config(self.config, self._overrides(values))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        return str(Path(sweep_output(_without_hydra(config), config.hydra)).absolute())

    def _left_over(self, study: SharedStudy) -> list[FrozenTrial]:
        """Trials that a process which is gone had begun, and whose jobs have come to no end."""
        lost = study.take_over()
        for one in study.elsewhere():
            print(f"trial {one.number} is looked after by process {one.user_attrs[PID]} on {one.user_attrs[HOST]}")
        if lost:
            # where the launcher was killed, what it had queued goes on
            follow_out(study.folder, {one.number for one in lost})
        left = []
        for one in lost:
            value = objective_in(Path(one.user_attrs[FOLDER]))
            if value is None:
                left.append(one)
            else:
                self._tell(study, one, value)
        return left

    def _run(self, study: SharedStudy, trials: Sequence[FrozenTrial], goes_on: bool = False) -> None:
        """Run trials with numbers in a row. Raises Stopped where a signal ended one: it can be gone on with."""
        jobs = [self._going_on(one) if goes_on else self._overrides(one.params) for one in trials]
        results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        for one, result in zip(trials, results, strict=True):
            self._tell(study, one, *_outcome(result))
        study.write(self.objective, self._command)

    def _going_on(self, trial: FrozenTrial) -> list[str]:
        """From its newest checkpoint, where it has one; else as it began."""
        folder = trial.user_attrs[FOLDER]
        there = newest_whole(Path(folder)) is not None
        return [f"resume={quoted(folder)}"] if there else self._overrides(trial.params)

    def _tell(self, study: SharedStudy, trial: FrozenTrial, value: float | None, error: str = "") -> None:
        told = study.tell(trial, value, error)
        came = f"failed: {told.user_attrs[ERROR].splitlines()[0]}" if told.value is None else f"{told.value:g}"
        print(f"trial {trial.number} {' '.join(overrides_of(self.space, trial.params))}: {came}", flush=True)

    def _end(self, study: SharedStudy) -> float | None:
        """Print and write the best."""
        path = study.write(self.objective, self._command)
        best, failed = study.best, study.failed
        if best is None:
            raise LookRightError(f"none of {len(study.trials)} trials has finished; what came of each: {path}")
        num_failed = f", {len(failed)} of which failed" if failed else ""
        print(
            f"best of {len(study.trials)} trials{num_failed}: trial {best.number}, {self.objective} {best.value:g}, in "
            f"{shown_path(best.user_attrs[FOLDER])}"
        )
        print(f"again: {self._command(best)}")
        print(f"wrote {shown_path(str(path))}")
        return best.value

    def _command(self, trial: FrozenTrial) -> str:
        """The command line that does what a trial did."""
        name = self.task_function.__module__.rpartition(".")[2]
        if name == "__main__":
            start = ["python", sys.argv[0]]
        else:
            start = ["python", f"{name}.py"] if IN_CHECKOUT else [f"lookright-{name.replace('_', '-')}"]
        flags = flags_of(self.config, CONFIG_FOLDER)
        # the name of the command's own config goes without saying
        flags = flags[:-2] if flags[-2:] == ["--config-name", name] else flags
        return shown_path(shlex.join([*start, *flags, *_repeated(self._overrides(trial.params))]))


def _check_keys(settings: Settings, config: DictConfig) -> None:
    problems = Problems(OmegaConf.create({"hydra": {"sweeper": config.hydra.sweeper}}))
    with problems:
        if settings.direction not in (None, *DIRECTIONS):
            raise ConfigError(f"hydra.sweeper.direction={settings.direction!r}; valid: {', '.join(DIRECTIONS)}")
    for key in ("n_trials", "n_jobs"):
        value = getattr(settings, key)
        with problems:
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"hydra.sweeper.{key}={value}; set 1 or more")
    problems.finish()


def _judged_by(task: DictConfig, direction: str | None) -> tuple[str, str]:
    """Name of the objective, and whether less or more of it is better. Raises ConfigError where nobody says."""
    evaluation = task.get("eval")
    if "eval" not in task:
        name, known = "what the command returns", None
    elif evaluation is None:
        name, known = OBJECTIVE, DIRECTIONS[0]
    else:
        name = evaluation.get("objective") or "accuracy"
        known = DIRECTIONS[1] if evaluation.get("objective") is None else None
    chosen = direction or known
    if chosen is None:
        raise ConfigError(
            f"hydra.sweeper.direction is not set, and {name} may be better high or low; set it to minimize or maximize"
        )
    return name, chosen


def _outcome(result: JobReturn) -> tuple[float | None, str]:
    """Value and error of a job. Raises Stopped."""
    try:
        value = result.return_value
    except Stopped:
        raise
    except Exception as error:
        return None, str(error).strip() or type(error).__name__
    if value is None:
        return None, "the job measured nothing; hold pairs out with data.val_fraction, or set eval=test_sets"
    return float(value), ""


def _repeated(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.lstrip("+~").startswith(NOT_REPEATED)]


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _in_a_row(trials: Sequence[FrozenTrial]) -> Iterator[list[FrozenTrial]]:
    """Trials in groups of successive numbers, as a launcher counts jobs."""
    group: list[FrozenTrial] = []
    for one in trials:
        if group and one.number != group[-1].number + 1:
            yield group
            group = []
        group.append(one)
    if group:
        yield group
