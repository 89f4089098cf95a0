"""The authors' layout refused: tensors, keys and towers that do not fit are named, with what to set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.tuning.lora import LoraTuning
from tests.backbones.checkpoints import AUTHORS_TOWER as TOWER
from tests.backbones.checkpoints import (
    SMALL,
    authors_state,
    edit_config,
    random_state,
    tower_shapes,
    write_json,
    write_tower,
    write_weights,
)


def test_every_misfit_is_named(write_original: Callable[..., Path]) -> None:
    folder = write_original("safetensors", shards=1)
    wrong = authors_state()
    del wrong["model.layers.1.mlp.up_proj.weight"]
    wrong["model.image_newline"] = torch.zeros(3)
    wrong["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # follows from the sizes
    wrong["model.mm_projector.2.bias"] = torch.zeros(31)
    write_weights(folder, wrong, "safetensors", 1)
    with pytest.raises(ConfigError) as caught:
        LlavaBackbone(path=str(folder)).build()
    message = str(caught.value)
    assert "model.layers.1.mlp.up_proj.weight is missing" in message
    assert "model.image_newline in model.safetensors is unknown" in message
    assert "model.mm_projector.2.bias in model.safetensors is (31,), config.json asks for (32,)" in message
    assert message.count("\n") == 3 and "inv_freq" not in message


def test_every_misfit_of_the_tower_is_named(write_original: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_original()
    wrong = random_state(tower_shapes(SMALL, ""))
    del wrong["encoder.layers.2.mlp.fc1.bias"]
    wrong["encoder.layers.3.mlp.fc1.bias"] = torch.zeros(40)
    write_tower(tmp_path / "clip", SMALL, wrong)
    with pytest.raises(ConfigError) as caught:
        LlavaBackbone(path=str(folder)).build()
    message = str(caught.value)
    assert f"the weights in {tmp_path / 'clip'} do not fit" in message
    assert "vision_model.encoder.layers.2.mlp.fc1.bias is missing" in message
    assert "vision_model.encoder.layers.3.mlp.fc1.bias in pytorch_model.bin is unknown" in message


def test_half_a_tower_inside_is_not_completed_from_elsewhere(write_original: Callable[..., Path]) -> None:
    folder = write_original(inside=True, shards=1)
    whole = authors_state(inside=True)
    del whole[f"{TOWER}pre_layrnorm.weight"]
    write_weights(folder, whole, "bin", 1)
    with pytest.raises(ConfigError, match=f"{TOWER}pre_layrnorm.weight is missing"):
        LlavaBackbone(path=str(folder)).build()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": None, "num_hidden_layers": None}, "hidden_size is missing\n  num_hidden_layers is missing"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer is missing"),
        ({"mm_projector_type": "linear"}, "mm_projector_type=linear is not supported; LLaVA-1.5 has mlp2x_gelu"),
        ({"mm_projector_type": None}, "mm_projector_type=linear is not supported"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature=cls_patch is not supported"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True is not supported"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio=anyres is LLaVA-1.6's"),
        ({"mm_hidden_size": 1024}, "mm_hidden_size=1024 but the tower's hidden_size is 24"),
        ({"num_attention_heads": 5}, r"hidden size \(32\) is not a multiple of the number of attention heads \(5\)"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower; set backbone.vision_tower"),
        ({"model_type": "llava_mpt"}, "holds a llava_mpt model, not a LLaVA one"),
    ],
)
def test_configurations_that_are_refused(
    write_original: Callable[..., Path], keys: dict[str, Any], message: str
) -> None:
    folder = write_original()
    edit_config(folder, **keys)
    with pytest.raises(ConfigError, match=message):
        LlavaBackbone(path=str(folder))


def test_towers_that_are_refused(
    write_original: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tower = write_original(), tmp_path / "clip"

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("lookright.backbones.folder.snapshot_download", fail)
    with pytest.raises(ConfigError, match="backbone.vision_tower=some/clip is no local folder.*no connection"):
        LlavaBackbone(path=str(folder), vision_tower="some/clip")
    edit_config(folder, mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(ConfigError, match="mm_vision_tower of .*=openai/clip.*set backbone.vision_tower to a folder"):
        LlavaBackbone(path=str(folder))
    (tower / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="backbone.vision_tower=.* holds no preprocessor_config.json"):
        LlavaBackbone(path=str(folder), vision_tower=str(tower))
    write_json(tower / "preprocessor_config.json", {})
    write_json(tower / "config.json", {"model_type": "llama"})
    with pytest.raises(ConfigError, match="holds a llama model, not a CLIP one"):
        LlavaBackbone(path=str(folder), vision_tower=str(tower))


def test_missing_weights_are_named(write_original: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_original(shards=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ConfigError, match="lists pytorch_model-00002-of-00003.bin, not in the folder"):
        LlavaBackbone(path=str(folder)).build()
    (tmp_path / "clip" / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="mm_vision_tower of .* holds no weights"):
        LlavaBackbone(path=str(folder)).build()


def test_adapters_and_4_bits_are_not_saved_as_a_checkpoint(write_original: Callable[..., Path], tmp_path: Path) -> None:
    backbone = LlavaBackbone(path=str(write_original()))
    policy = LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, backbone.build())
    with pytest.raises(ConfigError, match="merge it or remove it"):
        backbone.save_pretrained(policy.get_base_model(), tmp_path / "saved")
    four_bit = LlavaBackbone(path=backbone.path, quantization="4bit")
    with pytest.raises(ConfigError, match="weights in 4 bits.*loaded with backbone.quantization=null"):
        backbone.save_pretrained(four_bit.build(), tmp_path / "saved")
