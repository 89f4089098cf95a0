"""A small checkpoint in the layout of LLaVA's authors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backbones.checkpoints import (
    SMALL,
    authors_config,
    authors_state,
    random_state,
    tower_shapes,
    write_json,
    write_sentencepiece,
    write_tower,
    write_weights,
)

pytest.register_assert_rewrite("tests.backbones.contract")


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.model` of the small checkpoint's vocabulary."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    write_sentencepiece(folder, SMALL.vocabulary)
    return folder / "tokenizer.model"


@pytest.fixture()
def write_original(tmp_path: Path, small_tokenizer: Path) -> Callable[..., Path]:
    """Write a checkpoint and its tower: write_original(kind, shards, form, inside) -> the checkpoint's folder."""

    def make(kind: str = "bin", shards: int = 2, form: str = "clip", inside: bool = False, **keys: Any) -> Path:
        folder = tmp_path / "llava-v1.5"
        write_tower(tmp_path / "clip", SMALL, random_state(tower_shapes(SMALL, ""), seed=1), form)
        write_weights(folder, authors_state(inside), kind, shards)
        write_json(folder / "config.json", authors_config(SMALL, str(tmp_path / "clip")) | keys)
        (folder / "tokenizer.model").write_bytes(small_tokenizer.read_bytes())
        return folder

    return make
