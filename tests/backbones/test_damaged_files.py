"""Weights and adapters that are torn, pointers, of another rank or no numbers: named before anything is computed."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import with_adapter
from lookright.backbones.shards import fill
from lookright.backbones.tensor_files import check_numbers
from lookright.errors import ConfigError
from lookright.tuning.lora import LoraTuning

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(scope="module")
def trained(llava_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = LlavaBackbone(path=str(llava_weights))
    folder = tmp_path_factory.mktemp("trained")
    LoraTuning(r=2).apply(backbone, backbone.build()).save_pretrained(folder)
    return folder


@pytest.fixture()
def adapter(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_adapter_that_holds_no_numbers_is_refused_by_tensor(adapter: Path, value: float) -> None:
    file = adapter / "adapter_model.safetensors"
    name = sorted(load_file(file))[3]
    changed(file, lambda state: state[name].view(-1)[1:2].fill_(value))
    with pytest.raises(ConfigError, match=rf"^adapter={file}: {name} holds 1 of \d+ values that are NaN or infinite"):
        check_adapter(str(adapter))


def test_a_sound_adapter_is_taken(adapter: Path, llava_weights: Path) -> None:
    check_adapter(str(adapter))
    policy = with_adapter(LlavaBackbone(path=str(llava_weights)).build(), str(adapter))
    assert sum("lora_A" in name for name, _ in policy.named_parameters()) == len(
        [name for name in load_file(adapter / "adapter_model.safetensors") if "lora_A" in name]
    )


def test_damaged_adapters_are_named(adapter: Path) -> None:
    file, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    whole, settings = file.read_bytes(), json.loads(config.read_text())
    for data, message in (
        (POINTER, f"{file} is a Git-LFS pointer, not the weights; run `git lfs pull`"),
        (whole[:-10], f"{file} is no whole file of tensors .*torn or damaged: fetch it again"),
        (whole[:40], f"{file} is no whole file of tensors"),
        (b"", f"{file} is empty; fetch it again"),
    ):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            check_adapter(str(adapter))
    file.write_bytes(whole)
    for change, message in (
        ({"r": 8}, r"names the ranks \[8\], the weights beside it have 2; they do not belong together"),
        ({"r": 10**9}, "names the ranks"),
        ({"r": "2"}, "names the ranks"),
        ({"peft_type": "X"}, "peft_type='X'; valid: .*LORA"),
    ):
        config.write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match=message):
            check_adapter(str(adapter))
    config.write_bytes(b"{")
    with pytest.raises(ConfigError, match="adapter_config.json: not valid json .*set adapter to the adapter/ folder"):
        check_adapter(str(adapter))
    config.write_text(json.dumps(settings))
    file.unlink()
    with pytest.raises(
        ConfigError, match="holds no adapter_model.safetensors, the weights of the adapter; copy it there"
    ):
        check_adapter(str(adapter))


def test_an_adapter_in_which_tensors_are_missing_is_not_taken_for_zeros(adapter: Path, llava_weights: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    name = next(name for name in load_file(file) if "lora_B" in name)
    changed(file, lambda state: state.update({f"{name}x": state.pop(name)}))
    with pytest.raises(ConfigError, match="does not fit the backbone: .*is missing, 1 tensors in all"):
        with_adapter(LlavaBackbone(path=str(llava_weights)).build(), str(adapter))


@pytest.mark.parametrize("damage", ["nan", "pointer", "torn", "outside", "twice"])
def test_damaged_weights_are_named(llava_weights: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(llava_weights, tmp_path / "model"))
    file = folder / "model.safetensors"
    name = sorted(load_file(file))[0]
    if damage == "nan":
        changed(file, lambda state: state[name].view(-1)[:2].fill_(math.nan))
    elif damage in ("pointer", "torn"):
        file.write_bytes(POINTER if damage == "pointer" else file.read_bytes()[:-5])
    else:
        other = "../x.safetensors" if damage == "outside" else "gone.safetensors"
        weights = {"weight_map": dict.fromkeys(load_file(file), other)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    message = {
        "nan": "holds 2 of .* NaN or infinite",
        "pointer": "Git-LFS pointer",
        "torn": "no whole file of tensors",
        "outside": "names '../x.safetensors', which is no name of a file beside it",
        "twice": "lists gone.safetensors, not in the folder",
    }[damage]
    with pytest.raises(ConfigError, match=message):
        LlavaBackbone(path=str(folder)).build()


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for shard in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{shard}.safetensors")
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    filling = fill(files, {"w": (2,)}, lambda name, value: None, skip=lambda name: False)
    assert filling.problems == ["w is in a.safetensors and in b.safetensors"]


def test_large_finite_values_are_numbers() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        check_numbers(torch.full((8,), 3e38, dtype=dtype), "w", "it")
    check_numbers(torch.arange(3), "w", "it")
    with pytest.raises(ConfigError, match="it: w holds 1 of 3 values"):
        check_numbers(torch.tensor([1, -math.inf, 2], dtype=torch.float16), "w", "it")
