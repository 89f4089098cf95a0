"""From a command line with -m to jobs: overrides, folders, and what is refused before any job starts."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lookright.commands.train import job as train_job
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.references import resolved
from lookright.config.schema import register
from lookright.errors import ConfigError
from lookright.launching.jobs import Job, Launch, Resources
from lookright.launching.planning import collisions, command_of, flags_of, quoted
from lookright.launching.plugin import LocalJobs, SlurmJobs

Planned = Callable[..., Launch]


@pytest.fixture()
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """The launch of a command line, which nothing runs: planned("train", "loss.alpha=0,1")."""
    register()
    monkeypatch.chdir(tmp_path)
    launches: list[Launch] = []
    for launcher in (LocalJobs, SlurmJobs):
        monkeypatch.setattr(launcher, "run", lambda self, launch: launches.append(launch))
        monkeypatch.setattr(launcher, "offers_gpus", lambda self: False)

    def plan(command: str, *overrides: str, launcher: str = "local") -> Launch:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            given = [f"hydra/launcher={launcher}", "hydra.mode=MULTIRUN", *overrides]
            hydra.multirun(config_name=command, task_function=train_job, overrides=given)
        return launches.pop()

    return plan


def saved_run(folder: Path, devices: int = 1) -> None:
    folder.mkdir()
    trainer = {"accelerator": "cpu", "devices": devices, "num_nodes": 1}
    OmegaConf.save(OmegaConf.create({"trainer": trainer}), folder / "config.yaml")


def planned_config(folder: Path, *given: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("train", ["data.path=x", f"output={folder}", *given])
    folder.mkdir()
    OmegaConf.save(resolved(config), folder / "config.yaml")
    return config


def folders(launch: Launch) -> list[str]:
    return [str(Path(job.folder).relative_to(Path.cwd())) for job in launch.jobs]


def test_hydra_finds_both_launchers() -> None:
    names = Plugins.instance().class_name_to_class
    assert {f"hydra_plugins.lookright_launchers.{name}Launcher" for name in ("Slurm", "Local")} <= names.keys()


def test_a_job_is_the_command_line_of_one_run(planned: Planned) -> None:
    launch = planned("train", "data.path=pairs.jsonl", "loss.alpha=0,1", "output=sweep")
    assert [job.overrides[:3] for job in launch.jobs] == [
        ["data.path=pairs.jsonl", f"loss.alpha={alpha}", f"output='{Path.cwd()}/sweep/{num}'"]
        for num, alpha in enumerate((0, 1))
    ]
    assert launch.jobs[1].overrides[3:] == ["hydra.job.num=1", "hydra.job.id='1'", "hydra.mode=RUN"]
    assert [job.swept for job in launch.jobs] == [["loss.alpha=0"], ["loss.alpha=1"]]
    assert (launch.module, launch.cwd) == ("lookright.commands.train", str(Path.cwd()))
    assert launch.folder == Path.cwd() / "sweep" / "launch" / "1"
    assert Launch.load(launch.folder) == launch
    # Hydra reads it as one run, with the same values
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", launch.jobs[1].overrides, run_mode=RunMode.RUN)
    assert (config.output, config.loss.alpha, config.hydra.job.num) == (f"{Path.cwd()}/sweep/1", 1, 1)
    assert config.hydra.mode == RunMode.RUN


def test_every_job_has_a_folder_of_its_own(planned: Planned) -> None:
    given = ["data.path=x", "seed=0,1"]
    assert folders(planned("train", *given, "output=a")) == ["a/0", "a/1"]
    assert folders(planned("train", "data.path=x", "output=a,b")) == ["a/0", "b/1"]
    (first, second) = folders(planned("train", *given))
    assert re.fullmatch(r"outputs/train/multirun_[\d_-]+/0", first) and second == first[:-1] + "1"
    named = planned("train", *given, "output=a", "hydra.sweep.subdir=${hydra.job.override_dirname}")
    assert folders(named) == ["a/data.path=x,output=a,seed=0", "a/data.path=x,output=a,seed=1"]


def test_a_second_launch_lies_beside_the_first(planned: Planned) -> None:
    planned("train", "data.path=x", "seed=0,1", "output=a")
    assert planned("train", "data.path=x", "seed=0,1", "output=a").folder.name == "2"


def test_two_jobs_in_one_folder_are_refused_by_name(planned: Planned) -> None:
    with pytest.raises(ConfigError, match=r"jobs 0 and 1 would both write to .*/a/same; set hydra.sweep.subdir"):
        planned("train", "data.path=x", "seed=0,1", "output=a", "hydra.sweep.subdir=same")
    saved_run(Path("run"))
    with pytest.raises(ConfigError, match=r"jobs 0 and 1 would both write to .*/run"):
        planned("train", "resume=run,run")


def test_shards_share_the_folder_of_their_run(planned: Planned) -> None:
    launch = planned("generate", "shard.count=3", "shard.index=0,1,2", "output=pairs", "device=cpu")
    assert folders(launch) == ["pairs"] * 3
    assert [job.error_file.name for job in launch.jobs] == ["error_0.txt", "error_1.txt", "error_2.txt"]
    (one, two) = folders(planned("generate", "shard.count=2", "shard.index=0,1", "device=cpu"))
    assert one == two and one.startswith("outputs/generate/multirun_")
    with pytest.raises(ConfigError, match=r"jobs 0 and 1 would both write to .*/pairs"):
        planned("generate", "shard.count=2", "shard.index=0", "seed=0,1", "output=pairs", "device=cpu")


def test_resumed_runs_keep_folder_and_resources(planned: Planned, tmp_path: Path) -> None:
    saved_run(tmp_path / "a")
    saved_run(tmp_path / "b", devices=2)
    launch = planned("train", "resume=a,b")
    assert folders(launch) == ["a", "b"]
    assert [job.resources.tasks_per_node for job in launch.jobs] == [1, 2]
    assert not [item for job in launch.jobs for item in job.overrides if item.startswith("output=")]
    with pytest.raises(ConfigError, match=r"resume=gone holds no config.yaml"):
        planned("train", "resume=a,gone")


def test_repeated_runs_have_new_folders_and_the_resources_of_the_old(planned: Planned, tmp_path: Path) -> None:
    config = planned_config(tmp_path / "a", "trainer.devices=2")
    launch = planned("train", "repeat=a", "seed=0,1", "output=b")
    assert folders(launch) == ["b/0", "b/1"] and config.trainer.devices == 2
    assert [job.resources.tasks_per_node for job in launch.jobs] == [2, 2]
    assert launch.jobs[1].overrides[:2] == ["repeat=a", "seed=1"]
    (one,) = planned("train", "repeat=a", "trainer.devices=1", "output=b").jobs
    assert one.resources.tasks_per_node == 1
    with pytest.raises(ConfigError, match=r"repeat=gone holds no config.yaml"):
        planned("train", "repeat=a,gone")


def test_all_problems_are_told_once_before_any_job(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        planned("train", "data.path=x", "trainer.devices=0,two", "data.batch_size=many", "output=a")
    lines = str(error.value).splitlines()
    assert len(lines) == len(set(lines)) and any("data.batch_size='many'" in line for line in lines)
    assert not (tmp_path / "a" / "launch").exists()
    with pytest.raises(HydraException, match="lossy"):
        planned("train", "data.path=x", "lossy.alpha=0,1")
    with pytest.raises(ConfigError, match=r"hydra.launcher.poll='soon' does not fit"):
        planned("train", "data.path=x", "seed=0,1", "hydra.launcher.poll=soon")


def test_devices_that_the_launcher_counts_are_told_to_the_job(planned: Planned) -> None:
    launch = planned(
        "train", "data.path=x", "trainer=ddp", "seed=0,1", "hydra.launcher.gpus_per_node=4", launcher="slurm"
    )
    assert all("trainer.devices=4" in job.overrides for job in launch.jobs)
    assert launch.jobs[0].resources == Resources(tasks_per_node=4, gpus_per_node=4)


@pytest.mark.parametrize("text", ["a b", "it's", "x,y=${z}", r"back\slash", r"end\'", "[1]", "ü"])
def test_any_path_survives_the_command_line(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"output={quoted(text)}"])
    assert override.value() == text


def test_folders_of_the_user_are_handed_on(planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"provider": "command-line", "schema": "file", "path": "mine/conf"}
    main = {"provider": "main", "schema": "file", "path": str(CONFIG_FOLDER)}
    config = OmegaConf.create(
        {"hydra": {"runtime": {"config_sources": [main, source]}, "job": {"config_name": "train"}}}
    )
    assert flags_of(config, CONFIG_FOLDER) == ["--config-dir", f"{Path.cwd()}/mine/conf", "--config-name", "train"]
    assert flags_of(config, tmp_path)[:2] == ["--config-path", str(CONFIG_FOLDER)]


def test_a_command_is_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(config: Any) -> None: ...

    assert command_of(train_job) == "lookright.commands.train"
    function.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(ConfigError, match="this command is in a script; put it in a module"):
        command_of(function)


def test_collisions_name_each_later_job() -> None:
    jobs = [Job(num=num, overrides=[], swept=[], folder="x") for num in range(3)]
    assert [line.split(" would ")[0] for line in collisions(jobs)] == ["jobs 0 and 1", "jobs 0 and 2"]
