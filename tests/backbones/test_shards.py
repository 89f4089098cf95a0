"""Shards of any kind: names without data, what is handed on, what is a problem, where a folder is cut."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lookright.backbones.shards import fill, tensor_names, weight_files, write_shards
from lookright.errors import ConfigError
from tests.backbones.checkpoints import write_weights

STATE = {"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4), "old.c": torch.ones(1), "idle": torch.ones(5)}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["bin", "old.bin", "safetensors"])
def test_tensors_are_handed_on_by_name(tmp_path: Path, kind: str, shards: int) -> None:
    write_weights(tmp_path, STATE, kind, shards)
    assert tensor_names(tmp_path) == STATE.keys()
    found: dict[str, Tensor] = {}
    filling = fill(
        weight_files(tmp_path),
        {"a.weight": (2, 3), "b.weight": (9,), "c": (1,), "d": (1,)},
        found.__setitem__,
        skip=lambda name: name == "idle",
        rename=lambda name: name.removeprefix("old."),
    )
    assert found.keys() == {"a.weight", "c"} and all(
        torch.equal(value, torch.ones_like(value)) for value in found.values()
    )
    assert filling.skipped == ["idle"]
    wrong, missing = filling.problems
    assert wrong.startswith("b.weight in ") and wrong.endswith("is (4,), config.json asks for (9,)")
    assert missing == "d is missing"
    with pytest.raises(ConfigError, match=f"the weights in {tmp_path} do not fit its config.json:\n  b.weight"):
        filling.check(tmp_path)


def test_safetensors_come_before_bin_and_an_index_before_one_file(tmp_path: Path) -> None:
    for kind, shards, name in (
        ("bin", 1, "pytorch_model.bin"),
        ("safetensors", 1, "model.safetensors"),
        ("bin", 2, "pytorch_model-00001-of-00002.bin"),
        ("safetensors", 2, "model-00001-of-00002.safetensors"),
    ):
        write_weights(tmp_path, STATE, kind, shards)
        assert weight_files(tmp_path)[0].name == name


def test_a_shard_is_cut_before_it_grows_too_large(tmp_path: Path) -> None:
    """Floats of 6, 4, 1 and 5 in shards of at most 10."""
    write_shards(STATE, tmp_path, shard_bytes=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 64
    held = [set(load_file(file)) for file in sorted(tmp_path.glob("*.safetensors"))]
    assert held == [{"a.weight", "b.weight"}, {"old.c", "idle"}]
    assert {name: int(file[6:11]) for name, file in index["weight_map"].items()} == {
        name: number for number, names in enumerate(held, start=1) for name in names
    }
