"""Every file of conf/ and experiments/ composes, names only keys that exist, and builds what needs no weights."""

import inspect
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.config.entry import CONFIG_FOLDER
from lookright.errors import ConfigError
from lookright.training.trainer import NOT_PASSED, TrainerSettings

PRESETS = ("experiment", "debug")
"""Groups whose files set keys of others."""
COMMANDS = ("generate", "train", "infer", "tune_adaptive", "ask", "export", "serve")
EXPERIMENTS = sorted(path.stem for path in (CONFIG_FOLDER.parent / "experiments").glob("*.yaml"))


def groups_of(command: str) -> list[str]:
    """Groups that the command's defaults list names."""
    defaults = OmegaConf.load(CONFIG_FOLDER / f"{command}.yaml").defaults
    names = [next(iter(entry)) for entry in defaults if OmegaConf.is_dict(entry)]
    return [name for name in names if name not in PRESETS and not name.startswith("override ")]


def choices() -> list[tuple[str, str, str]]:
    """Command, group and option of every file."""
    return [
        (command, group, path.stem)
        for command in COMMANDS
        for group in groups_of(command)
        for path in sorted((CONFIG_FOLDER / group).glob("*.yaml"))
        if not path.stem.startswith("_")
    ]


def fill(config: DictConfig, folder: Path) -> DictConfig:
    """Any path, or an address, where a file leaves one to the user."""
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "http://localhost/v1" if key.endswith(".url") else str(folder))
    if "output" in config:
        config.output = str(folder / "out")
    return config


def test_every_file_belongs_to_a_command() -> None:
    folders = {path.name for path in CONFIG_FOLDER.iterdir() if path.is_dir() and path.name not in ("hydra", *PRESETS)}
    assert folders == {group for command in COMMANDS for group in groups_of(command)}


@pytest.mark.parametrize(("command", "group", "option"), choices())
def test_option(
    command: str, group: str, option: str, composed: Callable[..., DictConfig], llava_weights: Path, tmp_path: Path
) -> None:
    config = fill(composed(command, f"{group}={option}"), llava_weights)
    check_config(config)
    # a LLaVA source looks for its file: its own tests build it
    if config[group] is None or option == "llava_json":
        return
    if group == "backbone":
        if not config.backbone._target_.endswith("LlavaBackbone"):
            return
        config.backbone.path = str(llava_weights)
    if group == "trainer" and config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        with pytest.raises(Exception, match="no CUDA device is visible; set trainer=cpu") as error:
            instantiate(config.trainer)
        assert isinstance(error.value.__cause__, ConfigError)
        return
    instantiate(config[group], _convert_="all")


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIG_FOLDER / "trainer").glob("*.yaml")))
def test_trainer_files_have_all_keys(option: str, composed: Callable[..., DictConfig]) -> None:
    """What a user can set does not depend on the hardware."""
    given = set(composed("train", f"trainer={option}").trainer) - {"_target_"}
    own = set(signature(TrainerSettings).parameters) - {"lightning"}
    assert given == own | set(signature(Trainer).parameters) - set(NOT_PASSED)


def test_what_goes_to_lightning_is_its_default(composed: Callable[..., DictConfig]) -> None:
    """A key of cpu.yaml that nobody sets changes nothing, but for two that say and do less."""
    settings = instantiate(composed("train").trainer, _convert_="all")
    defaults = {name: one.default for name, one in signature(Trainer).parameters.items()}
    # null is Lightning's own choice here
    other = {"num_sanity_val_steps": 0, "enable_model_summary": False, "deterministic": False}
    assert {name: value for name, value in settings.lightning.items() if value != defaults[name]} == other


def test_every_argument_of_lightning_is_taken_or_told_where_it_is_set() -> None:
    assert set(NOT_PASSED) < set(signature(Trainer).parameters)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIG_FOLDER / "debug").glob("*.yaml")))
def test_debug_presets_have_their_way_with_an_experiment(name: str, composed: Callable[..., DictConfig]) -> None:
    for experiment in EXPERIMENTS:
        config = composed("train", f"experiment={experiment}", f"debug={name}", "data.path=x", "output=y")
        config.backbone.path = "z"
        check_config(config)
        preset = OmegaConf.load(CONFIG_FOLDER / "debug" / f"{name}.yaml").trainer
        assert {key: config.trainer[key] for key in preset if key != "checkpoint_every"} == {
            key: preset[key] for key in preset if key != "checkpoint_every"
        }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment(name: str, composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = fill(composed("train", f"experiment={name}"), tmp_path)
    check_config(config)
    text = (CONFIG_FOLDER.parent / "experiments" / f"{name}.yaml").read_text()
    assert f"experiment={name}" in text, "an experiment opens with its command"


def test_misspelt_key_of_an_experiment_is_named(composed: Callable[..., DictConfig]) -> None:
    config = composed("train", f"experiment={EXPERIMENTS[0]}", "+trainer.max_setps=3", "data.path=x")
    with pytest.raises(ConfigError, match="trainer.max_setps does not exist; did you mean max_steps"):
        check_config(config)


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_launchers(name: str) -> None:
    """The file has every key of the class, at the value that the class gives it or as the cluster wants it."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={name}", "hydra.launcher.poll=3"], return_hydra_config=True)
    launcher = config.hydra.launcher
    check_config(OmegaConf.create({"launcher": launcher}))
    target = Plugins.instance().class_name_to_class[launcher._target_]
    assert set(inspect.signature(target).parameters) == set(launcher) - {"_target_"}
    assert launcher.poll == 3
    assert name == "local" or (launcher.partition, launcher.gpus_per_node, launcher.time) == (None, None, "12:00:00")
