"""Sizes of a config.json that are no sizes, or of another model than its weights: told before any model is made."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.sizes import LARGEST
from lookright.errors import ConfigError

ASSETS = Path(importlib.util.find_spec("lookright").origin).parent / "backbones" / "assets"
FAMILIES: dict[str, Callable[..., Backbone]] = {"tiny_llava": LlavaBackbone, "tiny_ixc25": Ixc25Backbone}
PLACES = {
    "tiny_llava": ["text_config.hidden_size", "text_config.num_hidden_layers", "vision_config.image_size"],
    "tiny_ixc25": ["hidden_size", "num_hidden_layers", "vision_config.image_size", "plora_rank"],
}


def changed(name: str, folder: Path, values: dict[str, Any]) -> Backbone:
    """The shipped small model with other values in its config.json, by dotted key."""
    shutil.copytree(ASSETS / name, folder)
    config = json.loads((folder / "config.json").read_text())
    for place, value in values.items():
        node, (*outer, last) = config, place.split(".")
        for key in outer:
            node = node[key]
        node[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return FAMILIES[name](path=str(folder))


@pytest.mark.parametrize("value", [10**9, 10**6, -5, 0, "96", True, 96.0, None, [84, 84]])
@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in PLACES.items() for place in places])
def test_what_is_no_size_is_refused_by_its_key(name: str, place: str, value: Any, tmp_path: Path) -> None:
    largest = LARGEST[place.rpartition(".")[2]]
    with pytest.raises(ConfigError) as error:
        changed(name, tmp_path / "model", {place: value})
    wanted = f"backbone.path={tmp_path / 'model'}: config.json says {place}={value!r}; valid: whole numbers from 1 to "
    assert str(error.value) == f"{wanted}{largest:,}; fetch it again"


def test_all_sizes_at_fault_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        changed("tiny_llava", tmp_path / "model", {"text_config.vocab_size": -1, "vision_config.patch_size": "14"})
    lines = str(error.value).split("\n")
    assert len(lines) == 2 and "text_config.vocab_size=-1" in lines[0] and "vision_config.patch_size='14'" in lines[1]


def test_what_may_be_left_to_others_may_be_null(tmp_path: Path) -> None:
    given = {"text_config.num_key_value_heads": None, "text_config.head_dim": None}
    config = changed("tiny_llava", tmp_path / "model", given).build().config.text_config
    assert config.num_key_value_heads == config.num_attention_heads
    assert config.head_dim == config.hidden_size // config.num_attention_heads


@pytest.mark.parametrize(("name", "place"), [("tiny_llava", "text_config.vocab_size"), ("tiny_ixc25", "vocab_size")])
def test_a_model_that_the_weights_are_not_of_is_not_allocated(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size is one that a model may have; 2^21 rows of embeddings would take 1.6 GB."""
    backbone = changed(name, tmp_path / "model", {place: 2**21})
    for maker in ("empty", "zeros", "empty_strided"):
        made = getattr(torch, maker)
        monkeypatch.setattr(torch, maker, lambda *sizes, made=made, **options: _small(made(*sizes, **options)))
    message = "config.json describes a model of .* parameters, and the weights beside it have 4,165,192 bytes"
    with pytest.raises(ConfigError, match=message if name == "tiny_llava" else "is .549, 96., config.json asks for"):
        backbone.build()


def _small(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.is_meta or tensor.nbytes < 2**27, f"{tensor.nbytes} bytes were allocated"
    return tensor


def test_a_config_that_no_model_can_be_made_of_is_told(tmp_path: Path) -> None:
    """The id lies outside the vocabulary."""
    with pytest.raises(ConfigError, match=f"{tmp_path / 'model'}: its config.json is damaged, or not of this family"):
        changed("tiny_llava", tmp_path / "model", {"text_config.pad_token_id": 9999}).build()


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers"])
def test_sizes_of_a_tower_are_held_against_bounds_too(
    key: str, write_original: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_original()
    file = tmp_path / "clip" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 10**9}))
    with pytest.raises(ConfigError, match=rf"^mm_vision_tower of {folder}=.*clip: config.json says {key}=1000000000"):
        LlavaBackbone(path=str(folder))
