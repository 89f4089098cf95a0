"""Shared fixtures: small random models that need no download."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.tiny import write_llava_folder
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register

WORDS = (
    "USER: ASSISTANT: Image1: In Image2, what color is the shape? red blue green circle triangle yes no "
    "Regarding the central picture, is there a square here?"
)


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder without weights: 6 layers, grouped heads, 9 tokens a picture."""
    folder = tmp_path_factory.mktemp("llava")
    write_llava_folder(
        folder,
        [WORDS],
        vocab_size=330,
        text={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        vision={
            "image_size": 42,
            "patch_size": 14,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        },
    )
    return folder


@pytest.fixture(scope="session")
def llava(llava_folder: Path) -> LlavaBackbone:
    """The backbone of `llava_folder`."""
    return LlavaBackbone(path=str(llava_folder))


@pytest.fixture()
def picture() -> "callable":
    """Make a noise picture of a size from a seed."""

    def make(size: tuple[int, int], seed: int = 0) -> Image.Image:
        return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))

    return make


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def llava_weights(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llava_folder` with random weights, as a command takes it for `backbone.path`."""
    folder = tmp_path_factory.mktemp("llava_weights")
    torch.manual_seed(0)
    backbone = LlavaBackbone(path=str(llava_folder))
    backbone.save_pretrained(backbone.build(weights=False), folder)
    return folder


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """A command's config with overrides, as the command line makes it: composed("train", "seed=1")."""
    register()

    def make(command: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose(command, overrides=list(overrides))

    return make
