"""A small XComposer2.5 with every part at work: grouped heads, partial LoRA, tiles, separators."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lookright.backbones.ixc25 import Ixc25Backbone, Ixc25Config, Ixc25ForCausalLM
from recipes.tiny.ixc25_folder import write_ixc25_folder

TEXTS = [
    "user assistant Image1: In Image2, what color is the shape? red blue green circle yes no",
    "Regarding the central picture, is there a square here? Image1 ; Which?",
]
TEXT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "plora_rank": 4,
    "plora_alpha": 8.0,
}
VISION_SIZES = {
    "image_size": 84,
    "patch_size": 14,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _randomise(model: nn.Module, seed: int) -> None:
    """Weights of a size that makes every part matter; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(noise * scale + (parameter.ndim == 1))


@pytest.fixture(scope="session")
def ixc25_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration, tokenizer and random weights in the official layout."""
    folder = tmp_path_factory.mktemp("ixc25")
    write_ixc25_folder(folder, TEXTS, vocab_size=340, text=TEXT_SIZES, vision=VISION_SIZES)
    backbone = Ixc25Backbone(path=str(folder))
    model = backbone.build(weights=False)
    _randomise(model, seed=1)
    backbone.save_pretrained(model, folder)
    return folder


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
        _randomise(built, seed)
        return built

    return make


@pytest.fixture(scope="session")
def pixels() -> Callable:
    """Make a normalised picture of tiles (down, across) from a seed."""

    def make(down: int, across: int, seed: int = 0, tile: int = 84) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, down * tile, across * tile, generator=generator)

    return make
