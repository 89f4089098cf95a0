"""Hashes of what a config names: files whole, tables in pieces, folders of weights, nothing of a folder of pictures."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.common.hashing import NUM_PIECES, PIECE, hash_file
from lookright.config.inputs import Input, inputs_of


def inputs(**config: Any) -> dict[str, Input]:
    return inputs_of(OmegaConf.create(config))


def test_a_file_counts_with_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"one\n")
    (tmp_path / "images").mkdir()
    found = inputs(data={"path": [str(path), "nowhere.jsonl"], "image_root": str(tmp_path / "images"), "seed": 1})
    assert list(found) == ["data.path.0"]
    assert found["data.path.0"].hash == hashlib.sha256(b"one\n").hexdigest()[:32]
    assert (found["data.path.0"].path, found["data.path.0"].size) == (str(path), 4)
    path.write_bytes(b"two\n")
    assert inputs(data={"path": [str(path)]})["data.path.0"].hash != found["data.path.0"].hash


def test_keys_that_name_no_input_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("x")
    assert inputs(output="here", logger={"folder": "here"}, data={"_target_": "here"}, adapter=None) == {}
    assert inputs(data={"path": "x" * 5000}, adapter="a\0b") == {}


def test_a_large_table_counts_in_pieces_and_a_large_text_whole(tmp_path: Path) -> None:
    size = NUM_PIECES * PIECE + 1000
    name = tmp_path / "rows"
    for suffix, whole in (("parquet", False), ("jsonl", True)):
        path = name.with_suffix(f".{suffix}")
        with path.open("wb") as file:
            file.truncate(size)
        before = inputs(data={"path": str(path)})["data.path"].hash
        # between two pieces, and in the last one
        for place, seen in ((PIECE + 8, whole), (size - 1, True)):
            with path.open("rb+") as file:
                file.seek(place)
                file.write(b"x")
            os.utime(path, ns=(1, place))
            after = inputs(data={"path": str(path)})["data.path"].hash
            assert (after != before) is seen, (suffix, place)
            before = after
    assert hash_file(name.with_suffix(".parquet")) == hash_file(name.with_suffix(".jsonl")) == before


def test_weights_count_with_their_names_and_without_texts(
    composed: Callable[..., DictConfig], llava_weights: Path, tmp_path: Path
) -> None:
    config = composed("train", f"backbone.path={llava_weights}")
    whole = inputs_of(config)
    assert set(whole) == {"backbone.path", "data.path"}
    assert whole["backbone.path"].size > (llava_weights / "model.safetensors").stat().st_size
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", ".hidden"):
        (tmp_path / name).write_text(name)
    first = inputs(tuning={"adapter": str(tmp_path)})["tuning.adapter"]
    assert first.covers == "every byte of 2 files"
    (tmp_path / "README.md").write_text("another text")
    assert inputs(adapter=str(tmp_path))["adapter"].hash == first.hash
    (tmp_path / "adapter_config.json").rename(tmp_path / "adapter.json")
    assert inputs(adapter=str(tmp_path))["adapter"].hash != first.hash


def test_a_model_of_a_hub_counts_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "models--some--model" / "snapshots" / "0123abcd" / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(place))
    found = inputs(backbone={"path": "some/model", "image_aspect": "pad"}, data={"path": "some/model"})
    assert {key: one.hash for key, one in found.items()} == {"backbone.path": "0123abcd"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    assert inputs(backbone={"path": "some/model"}) == {}
