"""A sweep without a job is an error, whatever launches it; one with jobs is Hydra's own."""

import itertools
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.errors import ConfigError


def sweep(command: str, *overrides: str) -> list[str]:
    """Decode and run of each job."""
    register()
    seen: list[str] = []

    def job(config: DictConfig) -> None:
        seen.append(f"{config.data.path} {config.seed}")

    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.multirun(config_name=command, task_function=job, overrides=["hydra.mode=MULTIRUN", *overrides])
    return seen


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_hydra_finds_it() -> None:
    assert "hydra_plugins.lookright_launchers.CheckedBasicSweeper" in Plugins.instance().class_name_to_class


@pytest.mark.parametrize("launcher", ["basic", "local"])
@pytest.mark.parametrize("command", ["infer", "generate", "train", "tune_adaptive"])
def test_a_choice_without_values_is_refused(command: str, launcher: str, tmp_path: Path) -> None:
    given = ["data.path=x"] if command != "generate" else []
    key = "run" if command in ("infer", "tune_adaptive") else "output"
    for text in (f"{key}=glob(*)", "seed=range(3,3)", "decode=glob(zz*)" if command == "infer" else "seed=range(1,0)"):
        with pytest.raises(ConfigError) as error:
            sweep(command, *given, f"hydra/launcher={launcher}", text)
        assert str(error.value).startswith(f"{text} matches nothing, and the sweep would have no job; set ")
    assert not list(tmp_path.iterdir())


def test_all_combinations_are_run() -> None:
    found = sweep("infer", "data.path=a,b", "seed=range(0,2)", "decode=glob(gr*)")
    assert found == [f"{path} {seed}" for path, seed in itertools.product("ab", (0, 1))]
