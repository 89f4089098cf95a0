"""A pretraining run that was killed goes on to exactly the weights of one that was not, whatever the phase."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.commands.train import train
from lookright.pretraining.module import PretrainModule

Compose = Callable[..., DictConfig]
PHASES = ", ".join(
    f"{{_target_: lookright.pretraining.phases.Phase, batch_size: 2, {rest}}}"
    for rest in (
        "kind: vision, steps: 3, weights: {single_image: 1.0}",
        "kind: language, steps: 3, weights: {sequence: 1.0}, attention_weight: 1.0",
        "kind: language, steps: 2, weights: {single_image: 1.0}",
    )
)
SETTINGS = [
    "experiment=pretrain_tiny_llava",
    f"data.phases=[{PHASES}]",
    "data.sources=[{_target_: lookright.composing.sources.fashion_mnist.FashionMnist}]",
    "data.val_prompts=1",
    "data.num_workers=0",
    "trainer.checkpoint_every=1",
    "trainer.progress_bar=false",
]


class Killed(Exception):
    """Stands for a signal."""


@pytest.fixture(scope="module")
def unbroken(composed: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    summary = train(composed("train", *SETTINGS, f"output={folder}"))
    assert summary["steps"] == summary["planned_steps"] == 8
    return folder


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7])
def test_resumed_pretraining_is_exact(
    num_steps: int, composed: Compose, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = PretrainModule.training_step

    def dying(self: PretrainModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == num_steps:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PretrainModule, "training_step", dying)
        train(composed("train", *SETTINGS, f"output={tmp_path}"))
    train(composed("train", f"resume={tmp_path}"))
    wanted, found = (load_file(folder / "model" / "model.safetensors") for folder in (unbroken, tmp_path))
    assert wanted.keys() == found.keys()
    different = [name for name in wanted if not torch.equal(wanted[name], found[name])]
    assert not different, different[:5]
