"""A small XComposer2.5 with every part at work: grouped heads, partial LoRA, tiles, separators."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lookright.backbones.ixc25 import Ixc25Backbone, Ixc25Config, Ixc25ForCausalLM
from tests.backbones.ixc25.small import TEXT_SIZES, VISION_SIZES, randomise, write_small


@pytest.fixture(scope="session")
def ixc25_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration, tokenizer and random weights in the official layout."""
    return write_small(tmp_path_factory.mktemp("ixc25"))


@pytest.fixture()
def ixc25(ixc25_folder: Path) -> Ixc25Backbone:
    """The backbone of `ixc25_folder`, at most four tiles a picture."""
    return Ixc25Backbone(path=str(ixc25_folder), hd_num=4)


@pytest.fixture()
def model(ixc25: Ixc25Backbone) -> Ixc25ForCausalLM:
    """Its model, with our attention function."""
    return ixc25.build()


@pytest.fixture(scope="session")
def make_model() -> Callable:
    """Make a random model of a size: keyword arguments of Ixc25Config over the small ones."""

    def make(vision: dict | None = None, seed: int = 0, **sizes: object) -> Ixc25ForCausalLM:
        config = Ixc25Config(
            **({"vocab_size": 64, "plora_dropout": 0.0} | TEXT_SIZES | sizes),
            vision_config=VISION_SIZES | (vision or {}),
        )
        built = Ixc25ForCausalLM(config).eval()
        randomise(built, seed)
        return built

    return make


@pytest.fixture(scope="session")
def pixels() -> Callable:
    """Make a normalised picture of tiles (down, across) from a seed."""

    def make(down: int, across: int, seed: int = 0, tile: int = 84) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, down * tile, across * tile, generator=generator)

    return make
