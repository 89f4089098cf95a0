"""A search by Optuna: its numbers are plain Optuna's, failures and kills end nothing, what is wrong is told first."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from lookright.commands.train import job as train_job
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.errors import ConfigError, LookRightError
from lookright.launching.jobs import Job, Launch
from lookright.launching.planning import Planner
from lookright.launching.plugin import LocalJobs
from lookright.report.sweep import read_sweep

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from lookright.launching.space import check_space, read_space  # noqa: E402

SPACE = ("x=interval(-1,1)", "y=tag(log,interval(0.01,1))", "kind=a,b")


@dataclass
class Quadratic:
    """What the function below takes."""

    x: float = 0.0
    y: float = 1.0
    n: int = 0
    kind: str = "a"
    output: str | None = None


ConfigStore.instance().store(name="quadratic", node=Quadratic)


def value_of(x: float = 0.0, y: float = 1.0, kind: str = "a", n: int = 0) -> float:
    return (x - 0.3) ** 2 + (y - 0.1) ** 2 + (kind == "b") + (n - 2) ** 2


def quadratic(config: DictConfig) -> float:
    return value_of(config.x, config.y, config.kind, config.n)


def failing(config: DictConfig) -> float:
    if config.n == 1:
        raise ValueError("one is refused\nwith details")
    return float("nan") if config.n == 3 else quadratic(config)


def search(folder: Path, *overrides: str, function: Callable[[DictConfig], Any] = quadratic, **options: str) -> Any:
    """Run `app.py -m hydra/sweeper=optuna` in this process, by Hydra's own launcher."""
    given = ["hydra.sweeper.direction=minimize", *overrides]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        line = ["hydra/sweeper=optuna", f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN", *given]
        name = options.get("command", "quadratic")
        return hydra.multirun(config_name=name, task_function=function, overrides=line)


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "optuna.json").read_text())
    return found


def space_of(*lines: str) -> dict[str, Any]:
    fixed, space = read_space(OverridesParser.create().parse_overrides(list(lines)))
    assert not fixed
    return {one.name: one.distribution for one in space}


def test_hydras_words_as_distributions() -> None:
    lines = ["a=interval(0.01,1)", "b=tag(log,interval(1e-4,1))", "c=choice(0.1,1)", "d=range(1,5)", "e=range(4,33,4)"]
    assert space_of(*lines) == {
        "a": FloatDistribution(0.01, 1.0),
        "b": FloatDistribution(1e-4, 1.0, log=True),
        "c": CategoricalDistribution(["0.1", "1"]),
        # the end of a range is left out, as everywhere in Hydra
        "d": IntDistribution(1, 4),
        "e": IntDistribution(4, 32, step=4),
    }
    assert space_of("f=int(interval(1,8))", "g=range(0,1,0.25)", "+h=tag(log,range(1,9))", "i='x y','z'") == {
        "f": IntDistribution(1, 8),
        "g": FloatDistribution(0.0, 0.75, step=0.25),
        "h": IntDistribution(1, 8, log=True),
        "i": CategoricalDistribution(["'x y'", "'z'"]),
    }


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a=1", "nothing to search: give a key several values"),
        ("a=interval(2,1)", "a=interval(2,1): the interval is empty"),
        ("a=tag(log,interval(0,1))", "both ends are above 0"),
        ("a=tag(linear,interval(0,1))", "the tag linear says nothing to Optuna; valid: log"),
        ("a=tag(log,choice(1,2))", "a choice has no scale"),
        ("a=shuffle(range(1,5))", "leave shuffle(...) out"),
        ("a=shuffle(1,2)", "leave shuffle(...) out"),
        ("a=range(5,1,-1)", "the range is empty, or goes down"),
        ("a=tag(log,range(1,9,2))", "whole numbers above 0 and no step"),
        ("a=1,1", "a value is named twice"),
    ],
)
def test_a_space_that_cannot_be(line: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        space_of(line)
    assert wanted in str(error.value)


def test_every_choice_and_both_ends_are_tried() -> None:
    fixed, space = read_space(OverridesParser.create().parse_overrides(["a=interval(1,2)", "b=x,y,z", "c=3"]))
    tried: list[list[str]] = []

    def refuse(overrides: list[str]) -> None:
        tried.append(overrides)
        if "b=z" in overrides or "a=2.0" in overrides:
            raise ConfigError("a=2.0 does not fit; set a whole number" if "a=2.0" in overrides else "no z")

    with pytest.raises(ConfigError) as error:
        check_space(space, refuse)
    assert fixed == ["c=3"]
    assert tried == [["a=1.0", "b=x"], ["a=2.0", "b=x"], ["a=1.0", "b=x"], ["a=1.0", "b=y"], ["a=1.0", "b=z"]]
    assert str(error.value).split("\n") == [
        "a=2.0 does not fit; set a whole number: a=int(interval(1,2))",
        "no z",
    ]


def test_numbers_are_those_of_plain_optuna(tmp_path: Path) -> None:
    """Bit for bit, where one trial follows the other: 10 at random, then by TPE."""
    best = search(tmp_path / "out", *SPACE, "n=2", "hydra.sweeper.n_trials=25", "hydra.sweeper.sampler.seed=7")
    plain = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7))

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -1, 1)
        y = trial.suggest_float("y", 0.01, 1, log=True)
        return value_of(x, y, trial.suggest_categorical("kind", ["a", "b"]), 2)

    plain.optimize(objective, 25)
    found = told(tmp_path / "out")
    assert [one["params"] for one in found["trials"]] == [one.params for one in plain.trials]
    assert [one["value"] for one in found["trials"]] == [one.value for one in plain.trials]
    assert best == found["best"]["value"] == plain.best_value < 0.1
    assert found["best"]["number"] == plain.best_trial.number


def test_a_grid_is_tried_to_its_end_and_its_best_is_found(tmp_path: Path) -> None:
    given = ["n=range(0,5)", "x=choice(0.1,0.3)", "y=0.1"]
    given += ["hydra.sweeper.sampler._target_=optuna.samplers.BruteForceSampler"]
    best = search(tmp_path / "out", *given, "hydra.sweeper.n_trials=100")
    found = told(tmp_path / "out")
    assert len(found["trials"]) == 10
    assert len({(one["params"]["n"], one["params"]["x"]) for one in found["trials"]}) == 10
    assert best == 0.0 and found["best"]["params"] == {"n": 2, "x": "0.3"}
    assert found["best"]["command"].endswith("--config-name quadratic y=0.1 n=2 x=0.3")


def test_jobs_that_fail_are_noted_and_end_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    best = search(folder, "n=0,1,2,3", "y=0.1", "x=0.3", "hydra.sweeper.n_trials=12", function=failing)
    found = told(folder)
    assert best == 0.0 and len(found["trials"]) == 12
    for one in found["trials"]:
        error = {"1": "one is refused\nwith details", "3": "the objective is nan"}.get(one["params"]["n"])
        assert (one["state"], one.get("error")) == ("complete" if error is None else "fail", error)
    shown = capsys.readouterr().out
    assert "n=1: failed: one is refused\n" in shown
    number = sum(one["state"] == "fail" for one in found["trials"])
    assert number and f"best of 12 trials, {number} of which failed: trial {found['best']['number']}" in shown


def test_where_all_fail_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookRightError, match="none of 3 trials has finished; what came of each: .*optuna.json"):
        search(tmp_path / "out", "n=1,3", "hydra.sweeper.n_trials=3", function=failing)


def _killed_in_its_sixth(folder: Path) -> None:
    def job(config: DictConfig) -> float:
        if len(list(folder.glob("[0-9]*"))) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return quadratic(config)

    search(folder, *SPACE, "hydra.sweeper.n_trials=12", function=job)


def test_a_killed_search_goes_on_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_killed_in_its_sixth, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == -9
    before = told(folder)["trials"]
    assert [one["state"] for one in before] == ["complete"] * 5
    search(folder, *SPACE, "hydra.sweeper.n_trials=12")
    after = told(folder)["trials"]
    assert after[:5] == before
    assert [one["number"] for one in after] == list(range(12))
    assert {one["state"] for one in after} == {"complete"}
    assert after[5]["value"] == value_of(**{key: after[5]["params"][key] for key in ("x", "y", "kind")})
    # what the next process draws is not what the first one drew
    assert len({one["params"]["x"] for one in after}) == 12
    # nothing is left to do, and more may be asked for
    search(folder, *SPACE, "hydra.sweeper.n_trials=12")
    assert told(folder)["trials"] == after
    search(folder, *SPACE, "hydra.sweeper.n_trials=13", "hydra.sweeper.n_jobs=4")
    assert len(told(folder)["trials"]) == 13


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    search(folder, "x=interval(0,1)", "hydra.sweeper.n_trials=1")
    with pytest.raises(ConfigError, match=r"optuna.log holds the study out of another search \(space: "):
        search(folder, "x=interval(0,2)", "hydra.sweeper.n_trials=2")
    with pytest.raises(ConfigError, match=r"\(fixed: \[\] there, \['n=1'\] here\); set another output"):
        search(folder, "x=interval(0,1)", "n=1", "hydra.sweeper.n_trials=2")
    with pytest.raises(ConfigError, match="direction"):
        search(folder, "x=interval(0,1)", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2")


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    context = multiprocessing.get_context("fork")
    line = (*SPACE, "hydra.sweeper.n_trials=9", "hydra.sweeper.n_jobs=2")
    processes = [context.Process(target=search, args=(folder, *line)) for _ in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0]
    found = told(folder)["trials"]
    assert len(found) == 9 and len({one["folder"] for one in found}) == 9
    assert len({one["params"]["x"] for one in found}) == 9
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.log")))
    study = optuna.load_study(study_name="out", storage=storage)
    assert {one.state for one in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["hydra.sweeper.direction=down"], "hydra.sweeper.direction='down'; valid: minimize, maximize"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0; set 1 or more"),
        (["hydra.sweeper.n_jobs=two"], "hydra.sweeper.n_jobs='two' does not fit"),
        (["+hydra.sweeper.sampler.sede=1"], "hydra.sweeper.sampler.sede does not exist; did you mean seed?"),
        (["hydra.sweeper.direction=null"], "hydra.sweeper.direction is not set, and what the command returns may be"),
    ],
)
def test_keys_of_the_sweeper(overrides: list[str], wanted: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        search(tmp_path / "out", "x=interval(0,1)", *overrides)
    assert wanted in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"the package is missing; pip install 'lookright\[optuna\]'"):
        search(tmp_path / "out", "x=interval(0,1)")


@pytest.fixture()
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launches of a search of train.py whose jobs only write what they would have measured."""
    register()
    monkeypatch.chdir(tmp_path)
    launches: list[Launch] = []

    def run(self: LocalJobs, launch: Launch) -> None:
        launches.append(launch)
        for job in launch.jobs:
            alpha = next(float(item.partition("=")[2]) for item in job.overrides if item.startswith("loss.alpha="))
            Path(job.folder).mkdir(parents=True)
            told = {"metrics": {"val/loss": alpha}, "objective": {"name": "val/loss", "value": alpha}}
            (Path(job.folder) / "summary.json").write_text(json.dumps(told))

    monkeypatch.setattr(LocalJobs, "run", run)
    monkeypatch.setattr(LocalJobs, "offers_gpus", lambda self: False)
    return launches


TRAIN = ("hydra/launcher=local", "data.path=pairs.jsonl", "hydra.sweeper.direction=null")


def test_trials_are_jobs_of_a_launcher(measured: list[Launch], tmp_path: Path) -> None:
    given = ["loss.alpha=interval(0.1,1)", "loss.gamma=0.1,1", "output=out"]
    size = ["hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2"]
    best = search(tmp_path / "out", *TRAIN, *given, *size, function=train_job, command="train")
    assert [[job.num for job in launch.jobs] for launch in measured] == [[0, 1], [2, 3], [4]]
    jobs: list[Job] = [job for launch in measured for job in launch.jobs]
    assert [job.folder for job in jobs] == [str(tmp_path / "out" / str(num)) for num in range(5)]
    for job in jobs:
        assert [item.partition("=")[0] for item in job.swept] == ["loss.alpha", "loss.gamma"]
        assert not any("sweeper" in item for item in job.overrides)
    found = told(tmp_path / "out")
    assert (found["objective"], found["direction"]) == ("val/loss", "minimize")
    assert best == min(one["value"] for one in found["trials"])
    number, values = found["best"]["number"], found["best"]["params"]
    words = f"data.path=pairs.jsonl loss.alpha={values['loss.alpha']} loss.gamma={values['loss.gamma']}"
    assert found["best"]["command"] == f"python train.py {words}"
    # what the report makes of it
    sweep = read_sweep(tmp_path / "out")
    assert (sweep.metric, sweep.lower_is_better, sweep.keys) == ("val/loss", True, ["loss.alpha", "loss.gamma"])
    assert sweep.best is None or sweep.best.name == str(number)


def test_what_a_key_refuses_is_told_before_any_job(measured: list[Launch], tmp_path: Path) -> None:
    given = ["tuning.r=interval(2,8)", "data.formats=interval(0,1)", "tuning.alpha=4,big"]
    with pytest.raises(ConfigError) as error:
        search(tmp_path / "out", *TRAIN, *given, function=train_job, command="train")
    lines = str(error.value).split("\n")
    assert "tuning.r=2.0 does not fit; set a whole number: tuning.r=int(interval(2,8))" in lines
    assert any(line.startswith("data.formats=0.0 does not fit; set a list") for line in lines)
    assert any(line.startswith("tuning.alpha='big' does not fit") for line in lines)
    assert measured == [] and not (tmp_path / "out").exists()


def test_accuracy_is_to_be_high(measured: list[Launch], tmp_path: Path) -> None:
    given = ["loss.alpha=0.2,0.7", "eval=test_sets", "eval.data.path=x.jsonl", "hydra.sweeper.n_trials=6"]
    assert search(tmp_path / "out", *TRAIN, *given, function=train_job, command="train") == 0.7
    assert told(tmp_path / "out")["direction"] == "maximize"
    with pytest.raises(ConfigError, match="direction is not set, and error/sequence may be better high or low"):
        search(tmp_path / "new", *TRAIN, *given, "eval.objective=error/sequence", function=train_job, command="train")


def test_a_job_with_a_checkpoint_goes_on_from_it(
    measured: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    given = [*TRAIN, "loss.alpha=interval(0.1,1)", "hydra.sweeper.n_trials=3"]

    def killed(self: LocalJobs, launch: Launch) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalJobs, "run", killed)
        search(folder, *given, "hydra.sweeper.n_jobs=3", function=train_job, command="train")
    # trial 0 has finished meanwhile, trial 1 can go on, trial 2 begins anew
    (folder / "0").mkdir()
    (folder / "0" / "summary.json").write_text(json.dumps({"objective": {"name": "val/loss", "value": 0.5}}))
    asked: list[list[str]] = []

    def planned(self: Planner, sweep: Any, first: int, offers: Any) -> list[Job]:
        asked.extend([f"{first + place}", *overrides] for place, overrides in enumerate(sweep))
        return [Job(num=first + place, overrides=[], swept=[], folder=str(folder / "0")) for place in range(len(sweep))]

    monkeypatch.setattr(Planner, "jobs", planned)
    monkeypatch.setattr(LocalJobs, "run", lambda self, launch: None)
    there = folder / "1" / "step=2.ckpt"
    monkeypatch.setattr("lookright.launching.searching.newest_whole", lambda run: there if run.name == "1" else None)
    for room in ("study", "follow"):
        monkeypatch.setattr(f"lookright.launching.{room}.is_gone", lambda host, pid: True)
    search(folder, *given, function=train_job, command="train")
    assert asked[0] == ["1", f"resume='{folder / '1'}'"]
    assert asked[1][0] == "2" and asked[1][-1].startswith("loss.alpha=") and "data.path=pairs.jsonl" in asked[1]
    assert len(asked) == 2 and [one["state"] for one in told(folder)["trials"]] == ["complete"] * 3
