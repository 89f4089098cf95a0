"""Both published layouts at their real size, on the meta device: every name and shape of the 7B and the 13B."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.llava_original import empty_model, official_name
from lookright.commands.train import train
from tests.backbones.checkpoints import (
    SMALL,
    Shapes,
    Sizes,
    authors_config,
    authors_shapes,
    clip_preprocessor,
    random_state,
    stock_config,
    stock_shapes,
    tower_shapes,
    write_json,
    write_sentencepiece,
    write_tower,
    write_weights,
)

LARGE = {
    "7b": Sizes(hidden=4096, middle=11008, layers=32, heads=32, vocabulary=32000),
    "13b": Sizes(hidden=5120, middle=13824, layers=40, heads=40, vocabulary=32000),
}
# arXiv 2307.09288 (Llama 2) counts these; the projector has 2 layers with biases
LANGUAGE_PARAMETERS = {"7b": 6_738_415_616, "13b": 13_015_864_320}
TOWER_PARAMETERS = 303_507_456
"""CLIP-L/14 at 336 pixels, the vision part."""


@pytest.fixture(params=LARGE)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_the_lists_have_the_published_sizes(size: str) -> None:
    """The lists that everything here is compared with, against arithmetic of their own."""
    sizes = LARGE[size]
    shapes = authors_shapes(sizes)
    # embedding, last norm, head; 4 of attention, 3 of the MLP and 2 norms a layer; 2 weights and 2 biases
    assert len(shapes) == {"7b": 295, "13b": 367}[size] == 3 + 9 * sizes.layers + 4
    projector = (1024 + 1) * sizes.hidden + (sizes.hidden + 1) * sizes.hidden
    assert count(shapes) == LANGUAGE_PARAMETERS[size] + projector
    tower = tower_shapes(sizes, "")
    assert len(tower) == 3 + 4 + 16 * 24 and count(tower) == TOWER_PARAMETERS


def test_every_name_and_shape_of_the_authors_layout(
    size: str, tmp_path: Path, composed: Callable[..., DictConfig]
) -> None:
    sizes = LARGE[size]
    write_tower(tmp_path / "clip", sizes, {})
    write_sentencepiece(tmp_path / "llava", 400)
    config = authors_config(sizes, "openai/clip-vit-large-patch14-336")
    write_json(tmp_path / "llava" / "config.json", config)
    overrides = [f"backbone.path={tmp_path / 'llava'}", f"backbone.vision_tower={tmp_path / 'clip'}"]
    config = composed("train", f"backbone=llava15_{size}", *overrides, "data.path=none")
    backbone: LlavaBackbone = instantiate(config.backbone)
    with torch.device("meta"):
        fresh = backbone.build(weights=False, dtype=torch.float16)
    wanted = authors_shapes(sizes, tower=True)
    # what weights are read into, and what a dry run makes
    for model in (empty_model(backbone.config), fresh):
        assert {official_name(name): shape for name, shape in shapes_of(model).items()} == wanted
    prompt = backbone.encode_prompt("<image>\nred?", [(640, 480)])
    assert prompt.image_spans[0][1] - prompt.image_spans[0][0] == 576 == backbone.config.image_seq_length


def test_every_name_and_shape_of_transformers_layout(
    size: str, tmp_path: Path, llava_folder: Path, composed: Callable[..., DictConfig]
) -> None:
    """32,000 rows of LLaMA, `<image>`, `<pad>`, and 62 that make a multiple of 64."""
    sizes = replace(LARGE[size], vocabulary=32064)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llava_folder / name).read_bytes())
    write_json(tmp_path / "config.json", stock_config(sizes, 32000, seven=size == "7b"))
    write_json(tmp_path / "preprocessor_config.json", clip_preprocessor(sizes))
    config = composed("train", f"backbone=llava15_{size}", f"backbone.path={tmp_path}", "data.path=none")
    with torch.device("meta"):
        model = instantiate(config.backbone).build(weights=False)
    assert shapes_of(model) == stock_shapes(sizes, old=False)
    assert count(stock_shapes(sizes, old=True)) == sum(parameter.numel() for parameter in model.parameters())


# ---- a run on the authors' layout ----


def test_full_tuning_saves_the_layout_that_was_loaded(
    composed: Callable[..., DictConfig], small_run: list[str], tmp_path: Path
) -> None:
    """A folder that the same command can start from; the tower is in it once it was trained."""
    folder, clip = tmp_path / "llava-v1.5", tmp_path / "clip"
    sizes = replace(SMALL, layers=6)
    write_tower(clip, sizes, random_state(tower_shapes(sizes, ""), seed=1))
    write_weights(folder, random_state(authors_shapes(sizes)), "bin", 2)
    write_json(folder / "config.json", authors_config(sizes, "openai/clip-vit-large-patch14-336"))
    write_sentencepiece(folder, sizes.vocabulary)
    kept = [item for item in small_run if not item.startswith(("tuning.", "backbone."))]
    options = ["backbone=llava15_7b", f"backbone.path={folder}", f"backbone.vision_tower={clip}", "tuning=full"]
    options += [
        "reference=frozen_copy",
        "trainer.max_steps=1",
        "trainer.precision=32-true",
        "trainer.model_dtype=float32",
    ]
    for vision in (False, True):
        output = tmp_path / f"vision_{vision}"
        train(composed("train", *kept, *options, f"tuning.train_vision={vision}", f"output={output}"))
        index = json.loads((output / "model" / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == authors_shapes(sizes, tower=vision).keys()
        assert (output / "model" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
        before, after = (
            LlavaBackbone(path=str(path), vision_tower=str(clip)).build().state_dict()
            for path in (folder, output / "model")
        )
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert any(name.startswith("model.language_model.") for name in moved)
        assert any(name.startswith(LlavaBackbone.vision_prefix) for name in moved) == vision
        assert not any(name.startswith(LlavaBackbone.projector_prefix) for name in moved)
