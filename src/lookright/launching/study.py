"""The study of a search, in a file that outlives its processes: which trials there are, what came of each."""

import fcntl
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from lookright.common.jsonl import write_atomically
from lookright.errors import ConfigError
from lookright.launching.jobs import is_gone
from lookright.launching.space import Dimension

STUDY_FILE, LOCK_FILE, RESULT_FILE = "optuna.log", ".optuna.lock", "optuna.json"
FOLDER, HOST, PID, ERROR = "folder", "host", "pid", "error"
"""What is noted of a trial: its run's folder, the process that looks after it, why it failed."""
SETTINGS, PROCESSES = "settings", "processes"
"""What is noted of a study: the space and what all trials have; how many processes have worked on it."""


class SharedStudy:
    """One study, asked and told by any number of processes, one after the other or at once.

    `make_sampler` is called with the number of processes that worked on the study before this one: two that draw by
    one seed would draw the same. `place` tells the folder of a trial's run by number and values. Raises ConfigError
    where the file holds another search under the name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        storage: Path,
        name: str,
        direction: str,
        space: Sequence[Dimension],
        fixed: Sequence[str],
        make_sampler: Callable[[int], BaseSampler],
        place: Callable[[int, dict[str, Any]], str],
    ) -> None:
        self.folder, self.space, self.place = folder, space, place
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        storage.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.study = optuna.create_study(
                study_name=name,
                storage=JournalStorage(JournalFileBackend(str(storage))),
                direction=StudyDirection[direction.upper()],
                load_if_exists=True,
            )
            self._check_same(direction, fixed, storage)
            before = self.study.user_attrs.get(PROCESSES, 0)
            self.study.set_user_attr(PROCESSES, before + 1)
        self.study.sampler = make_sampler(before)
        self.is_exhausted = False

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them, as they are now."""
        return self.study.get_trials(deepcopy=False)

    def ask(self, most: int, total: int) -> list[FrozenTrial]:
        """Begin up to `most` trials, with numbers in a row; none where `total` have begun or all was tried."""
        with self._alone():
            count = 0 if self.is_exhausted else min(most, total - len(self.trials))
            begun = []
            for _ in range(count):
                trial = self.study.ask({one.name: one.distribution for one in self.space})
                self._look_after(trial)
                begun.append(trial.number)
        return [self.trials[number] for number in begun]

    def take_over(self) -> list[FrozenTrial]:
        """Trials whose process is gone before it told what came of them; from now on they are this one's."""
        with self._alone():
            lost = [
                one
                for one in self.trials
                if one.state == TrialState.RUNNING
                and (
                    # killed before it had said so
                    PID not in one.user_attrs or is_gone(one.user_attrs[HOST], one.user_attrs[PID])
                )
            ]
            for one in lost:
                self._look_after(Trial(self.study, one._trial_id))
        return [self.trials[one.number] for one in lost]

    def elsewhere(self) -> list[FrozenTrial]:
        """Trials that other processes look after."""
        mine = (socket.gethostname(), os.getpid())
        running = [one for one in self.trials if one.state == TrialState.RUNNING]
        return [one for one in running if (one.user_attrs.get(HOST), one.user_attrs.get(PID)) != mine]

    def tell(self, trial: FrozenTrial, value: float | None, error: str = "") -> FrozenTrial:
        """Note what came of a trial: its value, or that it failed and why. A value that is no number is a failure."""
        if value is None or not math.isfinite(value):
            Trial(self.study, trial._trial_id).set_user_attr(ERROR, error or f"the objective is {value}")
            value = None
        try:
            self.study.tell(trial.number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
        except RuntimeError:
            # a sampler that has tried everything ends Optuna's own loop, and this is another; the trial is told by then
            self.is_exhausted = True
        return self.trials[trial.number]

    @property
    def best(self) -> FrozenTrial | None:
        """The best that has finished."""
        done = [one for one in self.trials if one.state == TrialState.COMPLETE]
        return self.study.best_trial if done else None

    @property
    def failed(self) -> list[FrozenTrial]:
        """Trials whose job failed."""
        return [one for one in self.trials if one.state == TrialState.FAIL]

    def write(self, objective: str, command: Callable[[FrozenTrial], str]) -> Path:
        """Write `optuna.json`: the best trial with the `command` that repeats it, and every other; returns its path."""
        best = self.best
        told = {
            "study": self.study.study_name,
            "objective": objective,
            "direction": self.study.direction.name.lower(),
            "best": None if best is None else _line(best) | {"command": command(best)},
            "trials": [_line(one) for one in self.trials],
        }
        path = self.folder / RESULT_FILE
        write_atomically(path, [json.dumps(told, indent=1) + "\n"])
        return path

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process of this folder begins a trial meanwhile; on a file system without locks one hopes so."""
        with (self.folder / LOCK_FILE).open("w") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _look_after(self, trial: Trial) -> None:
        """Note the trial's folder, and that this process waits for its job."""
        trial.set_user_attr(FOLDER, self.place(trial.number, trial.params))
        trial.set_user_attr(HOST, socket.gethostname())
        trial.set_user_attr(PID, os.getpid())

    def _check_same(self, direction: str, fixed: Sequence[str], storage: Path) -> None:
        settings = {one.name: distribution_to_json(one.distribution) for one in self.space}
        mine = {"direction": direction, "fixed": sorted(fixed), "space": settings}
        known = self.study.user_attrs.get(SETTINGS, mine)
        different = [key for key in mine if known[key] != mine[key]]
        if different:
            raise ConfigError(
                f"{storage} holds the study {self.study.study_name} of another search ({', '.join(different)}: "
                f"{'; '.join(f'{known[key]} there, {mine[key]} here' for key in different)}); set another output, or "
                "the same again to go on"
            )
        self.study.set_user_attr(SETTINGS, mine)


def _line(trial: FrozenTrial) -> dict[str, Any]:
    line = {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, "params": trial.params}
    return line | {key: trial.user_attrs[key] for key in (FOLDER, ERROR) if key in trial.user_attrs}
