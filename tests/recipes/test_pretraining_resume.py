"""A pretraining run that was killed goes on to exactly the weights of one that was not, whatever the phase."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.backbones.llava import LlavaBackbone
from lookright.config.entry import explain
from lookright.errors import ConfigError
from recipes.tiny.module import PretrainModule
from recipes.tiny.pretrain import CONFIG_FOLDER, pretrain

ROOT = Path(__file__).parents[2]
PHASES = ", ".join(
    f"{{_target_: recipes.tiny.phases.Phase, batch_size: 2, {rest}}}"
    for rest in (
        "kind: vision, steps: 3, weights: {single_image: 1.0}",
        "kind: language, steps: 3, weights: {sequence: 1.0}, attention_weight: 1.0",
        "kind: language, steps: 2, weights: {single_image: 1.0}",
    )
)
SETTINGS = [
    f"data.phases=[{PHASES}]",
    "data.sources=[{_target_: lookright.composing.sources.fashion_mnist.FashionMnist}]",
    "data.val_prompts=1",
    "data.num_workers=0",
    "trainer.checkpoint_every=1",
    "trainer.progress_bar=false",
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("pretrain", overrides=list(overrides))


class Killed(Exception):
    """Stands for a signal."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    summary = pretrain(composed(*SETTINGS, f"output={folder}"))
    assert summary["steps"] == summary["planned_steps"] == 8
    return folder


def test_files_of_a_run(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert {"config.yaml", "checkpoints", "fresh", "made_by.json", "metrics.csv", "model", "summary.json"} <= names
    assert LlavaBackbone(path=str(unbroken / "model")).build() is not None


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7])
def test_resumed_pretraining_is_exact(
    num_steps: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = PretrainModule.training_step

    def dying(self: PretrainModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == num_steps:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PretrainModule, "training_step", dying)
        pretrain(composed(*SETTINGS, f"output={tmp_path}"))
    pretrain(composed(f"resume={tmp_path}"))
    wanted, found = (load_file(folder / "model" / "model.safetensors") for folder in (unbroken, tmp_path))
    assert wanted.keys() == found.keys()
    different = [name for name in wanted if not torch.equal(wanted[name], found[name])]
    assert not different, different[:5]


def test_a_finished_run_is_left_as_it_is(unbroken: Path) -> None:
    before = {name: (unbroken / name).read_bytes() for name in ("summary.json", "model/model.safetensors")}
    assert pretrain(composed(f"resume={unbroken}"))["steps"] == 8
    assert before == {name: (unbroken / name).read_bytes() for name in before}
    with pytest.raises(ConfigError, match=f"holds a run already; set resume={unbroken}"):
        pretrain(composed(*SETTINGS, f"output={unbroken}"))


@pytest.mark.parametrize("override", ["optimization.schedule=cosine", "tuning=full", "trainer.plan=true"])
def test_what_pretraining_has_no_use_for_is_refused(override: str) -> None:
    """Keys of train.py that would be ignored here do not exist here."""
    with pytest.raises(Exception, match="override") as error:
        composed(override)
    name = override.partition("=")[0]
    assert explain(error.value, "pretrain", CONFIG_FOLDER).startswith(f"{name} does not exist; ")


def test_bad_settings_are_told_at_once(tmp_path: Path) -> None:
    wrong = ["optimization.warmup=1", "trainer.checkpoint_every=0", "data.val_promts=1"]
    with pytest.raises(Exception, match="val_promts"):
        composed(*SETTINGS, wrong[2])
    with pytest.raises(ConfigError) as error:
        pretrain(composed(*SETTINGS, *wrong[:2], f"output={tmp_path}"))
    assert "optimization.warmup=1" in str(error.value) and "trainer.checkpoint_every=0" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["llava", "ixc25"])
def test_the_command_of_the_model_cards(backbone: str, tmp_path: Path) -> None:
    card = ROOT / "src" / "lookright" / "backbones" / "assets" / f"tiny_{backbone}" / "README.md"
    command = f"python -m recipes.tiny.pretrain backbone={backbone}"
    assert f"`{command}`" in card.read_text(encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *command.split()[1:], *SETTINGS, f"output={tmp_path}"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "model" / "config.json").is_file()
    assert f"python -m recipes.tiny.pretrain backbone={backbone}" in (tmp_path / "made_by.json").read_text()
