"""The contract of `contract.py`, kept by every backbone that has a small folder: the shipped and those of tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.config.entry import CONFIG_FOLDER
from tests.backbones.checkpoints import (
    SMALL,
    authors_config,
    authors_state,
    random_state,
    tower_shapes,
    write_json,
    write_tower,
    write_weights,
)
from tests.backbones.contract import BackboneContract, Case
from tests.backbones.ixc25.small import write_small
from tests.examples import lively_model

SHIPPED = sorted(file.stem for file in (CONFIG_FOLDER / "backbone").glob("tiny_*.yaml"))


def shipped(name: str, composed: Callable[..., DictConfig]) -> Case:
    """A backbone whose weights lie in the package, as its config names it."""
    config = composed("infer", f"backbone={name}").backbone
    return Case(make=lambda folder: instantiate(config, path=str(folder)), folder=Path(config.path))


def saved(backbone: Backbone, folder: Path, make: Callable[[Path], Backbone]) -> Case:
    """A folder without weights, given lively ones."""
    backbone.save_pretrained(lively_model(backbone, torch.float32), folder)
    return Case(make=make, folder=folder)


class TestContract(BackboneContract):
    """All of it, for every backbone."""

    @pytest.fixture(scope="class", params=[*SHIPPED, "llava", "llava_original", "ixc25"])
    def case(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
        folder = tmp_path_factory.mktemp(request.param)
        if request.param in SHIPPED:
            return shipped(request.param, request.getfixturevalue("composed"))
        if request.param == "llava":
            return saved(request.getfixturevalue("llava"), folder, lambda path: LlavaBackbone(path=str(path)))
        if request.param == "ixc25":
            return Case(make=lambda path: Ixc25Backbone(path=str(path), hd_num=4), folder=write_small(folder))
        write_tower(folder / "clip", SMALL, random_state(tower_shapes(SMALL, ""), seed=1))
        write_weights(folder / "llava", authors_state(), "bin", 2)
        write_json(folder / "llava" / "config.json", authors_config(SMALL, str(folder / "clip")))
        model_file = request.getfixturevalue("small_tokenizer")
        (folder / "llava" / "tokenizer.model").write_bytes(model_file.read_bytes())
        return Case(make=lambda path: LlavaBackbone(path=str(path)), folder=folder / "llava")
