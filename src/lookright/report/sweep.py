"""What runs say together: the keys that differ, means over seeds, differences to one of them, the best."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lookright.config.runs import EVAL_FOLDER, OBJECTIVE
from lookright.errors import ConfigError
from lookright.evaluation.comparison import Difference, compare_runs
from lookright.evaluation.intervals import Estimate, mean_of_few
from lookright.evaluation.predictions import metrics_of_run
from lookright.report.runs import Run, Setting, natural, read_runs

SEED = "seed"


@dataclass(slots=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone.

    `interval` is Student's, of the metric over the finished ones, None for fewer than two. `change` is the mean
    difference to the group of the run compared with, over seeds that both have; `seeds` are how many those are.
    """

    settings: dict[str, Setting]
    runs: list[Run]
    values: list[float]
    mean: float | None
    interval: Estimate | None
    change: float | None = None
    change_interval: Estimate | None = None


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Runs below `folder`; `keys` are those that differ, `metric` what runs are judged by.

    `differences` of a run's questions to those of `against`, by run; `not_compared` says why a run has none.
    """

    folder: Path
    runs: list[Run]
    keys: list[str]
    metric: str
    lower_is_better: bool
    groups: list[Group] = field(default_factory=list)
    against: str | None = None
    differences: dict[str, Difference] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)

    def setting(self, run: Run, key: str) -> Setting:
        """The value of a key that differs; None where the run does not say."""
        return run.settings[key] if key in run.settings else (run.given or {}).get(key)

    def value(self, run: Run) -> float | None:
        """The metric of a run, as it is known by now."""
        return run.values.get(self.metric)

    @property
    def best(self) -> Run | None:
        """The best of the finished runs."""
        told = [(value, run) for run in self.runs if run.finished and (value := self.value(run)) is not None]
        sign = 1 if self.lower_is_better else -1
        return min(told, key=lambda one: sign * one[0])[1] if told else None

    @property
    def group_keys(self) -> list[str]:
        """The keys that differ beside the seed."""
        return [key for key in self.keys if key != SEED]


def read_sweep(
    folder: Path, metric: str | None = None, against: str | None = None, trusted: Collection[str] = ()
) -> Sweep:
    """Read all runs. `metric` (None: their own objective) and `against`, a run's name (None: no differences).

    `trusted` are classes, modules or packages of metrics that are not ours.

    Raises ConfigError for a folder without runs, a metric that none has, and a name that is none.
    """
    folder = Path(os.path.abspath(folder))
    runs = read_runs(folder)
    metric = metric or _objective(runs)
    known = sorted({name for run in runs for name in run.values})
    if known and metric not in known and metric != OBJECTIVE:
        raise ConfigError(f"--metric {metric}: no run has it; valid: {', '.join(known)}")
    sweep = Sweep(
        folder=folder,
        runs=runs,
        keys=differing_keys(runs),
        metric=metric,
        lower_is_better=_is_loss(runs, metric, trusted),
    )
    sweep.groups = list(_groups(sweep))
    if against is not None:
        _compare(sweep, against, trusted)
    return sweep


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys that differ over runs: of their command lines where a launcher knows them all, else of their configs.

    Of keys that always have one value and one last name, as `data.seed` and `seed`, the one nearest the root stays.
    """
    if all(run.given is not None for run in runs):
        told = [run.given or {} for run in runs]
    else:
        told = [run.settings or run.given or {} for run in runs]
    names = dict.fromkeys(key for settings in told for key in settings)
    values = {key: tuple(settings.get(key) for settings in told) for key in names}
    differing = [key for key, found in values.items() if len(set(map(repr, found))) > 1]
    kept: dict[tuple[str, tuple[Setting, ...]], str] = {}
    for key in sorted(differing, key=lambda name: name.count(".")):
        kept.setdefault((key.rpartition(".")[2], values[key]), key)
    return sorted(kept.values(), key=lambda key: (key == SEED, differing.index(key)))


def _objective(runs: Sequence[Run]) -> str:
    """What most runs were told to optimise."""
    told = (run.summary.get("objective", {}).get("name") for run in runs)
    names = Counter(name for name in told if isinstance(name, str))
    return names.most_common(1)[0][0] if names else OBJECTIVE


def _is_loss(runs: Sequence[Run], metric: str, trusted: Collection[str]) -> bool:
    """Whether less of the metric is better, as the metric itself says where it is one of the evaluation."""
    if metric.startswith(("train/", "val/")):
        return "loss" in metric
    measured = next((run.folder / EVAL_FOLDER for run in runs if run.measured), None)
    measures = [] if measured is None else metrics_of_run(measured, trusted).measures
    return any(one.good < 0 for one in measures if one.key == metric.rpartition("/")[0])


def _groups(sweep: Sweep) -> Iterator[Group]:
    """Runs by their settings but the seed, in the order of these."""
    found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in sweep.runs:
        found[tuple(str(sweep.setting(run, key)) for key in sweep.group_keys)].append(run)
    for _, runs in sorted(found.items(), key=lambda one: [natural(part) for part in one[0]]):
        values = [value for run in runs if run.finished and (value := sweep.value(run)) is not None]
        yield Group(
            settings={key: sweep.setting(runs[0], key) for key in sweep.group_keys},
            runs=runs,
            values=values,
            mean=sum(values) / len(values) if values else None,
            interval=mean_of_few(values) if len(values) > 1 else None,
        )


def _compare(sweep: Sweep, against: str, trusted: Collection[str]) -> None:
    """Fill in differences to a run and, over seeds, to its group."""
    named = next((run for run in sweep.runs if run.name == against), None)
    if named is None:
        raise ConfigError(f"--against {against} is none of the runs {', '.join(run.name for run in sweep.runs)}")
    sweep.against = against
    key, _, group = sweep.metric.rpartition("/")
    for run in sweep.runs:
        if run is not named and run.finished and named.finished and run.measured and named.measured:
            folders = {one.name: one.folder / EVAL_FOLDER for one in (named, run)}
            try:
                questions = compare_runs(folders, against, trusted=trusted).groups.get(group)
            except ConfigError as error:
                sweep.not_compared[run.name] = str(error)
                continue
            found = None if questions is None else questions.differences.get(key, {}).get(run.name)
            if found is not None:
                sweep.differences[run.name] = found
    own = next(one for one in sweep.groups if named in one.runs)
    before = _by_seed(sweep, own)
    for other in sweep.groups:
        after = _by_seed(sweep, other)
        changes = [after[seed] - before[seed] for seed in after if seed in before and other is not own]
        other.change = sum(changes) / len(changes) if changes else None
        other.change_interval = mean_of_few(changes) if len(changes) > 1 else None


def _by_seed(sweep: Sweep, group: Group) -> dict[str, float]:
    """The metric of a group's finished runs, by seed."""
    return {
        str(sweep.setting(run, SEED)): value
        for run in group.runs
        if run.finished and (value := sweep.value(run)) is not None
    }
