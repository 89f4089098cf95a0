"""A folder outside the package, on Python's path and on Hydra's, where a test writes a module and its YAML."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import Qwen2Config

from lookright.config.entry import CONFIG_FOLDER
from tests.commands.conftest import write_source
from tests.examples import lively_model
from tests.seams.qwen_vl import QwenBackbone

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = {"vocab_size": 330, "image_token_id": 3, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0}
EYES = {"image_size": 56, "patch_size": 14}
Outside = Callable[[str, dict[str, str]], Path]


@pytest.fixture()
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """Write the module `from_outside` and YAML files by their path below a config folder; gives the config folder."""

    def write(module: str, configs: dict[str, str]) -> Path:
        folder = tmp_path / "outside"
        folder.mkdir()
        (folder / "from_outside.py").write_text(module)
        for name, text in configs.items():
            path = folder / "conf" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        return folder / "conf"

    yield write
    sys.modules.pop("from_outside", None)


@pytest.fixture(scope="session")
def searching() -> Callable[..., DictConfig]:
    """A command's config with a further folder in Hydra's search path: searching("infer", folder, "decode=mine")."""

    def make(command: str, folder: Path, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose(command, overrides=[f"hydra.searchpath=[{folder}]", *overrides])

    return make


@pytest.fixture()
def generating(tmp_path: Path, llava_weights: Path) -> list[str]:
    """Overrides of a run of generate.py that takes seconds: twelve prompts about pictures of one colour each."""
    source = write_source(tmp_path / "llava")
    return [
        f"backbone.path={llava_weights}",
        "source=llava_json",
        f"source.train_json={source / 'rows.json'}",
        f"source.image_folder={source / 'pictures'}",
        "companions=same_question",
        "composers.grid_collage.cell_size=24",
        "composers.grid_collage.margin=12",
        "num_prompts=12",
        "batch_size=4",
        "decode.max_new_tokens=3",
        "report_examples=2",
        f"output={tmp_path / 'out'}",
    ]


@pytest.fixture(scope="session")
def qwen_folder(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `qwen_vl.QwenBackbone`: configuration, tokenizer and lively weights."""
    written = tmp_path_factory.mktemp("qwen_vl")
    config = Qwen2Config(**SIZES, **HEADS, **TOKENS, **EYES, max_position_embeddings=512, tie_word_embeddings=False)
    config.save_pretrained(written)
    shutil.copy(llava_folder / "tokenizer.json", written)
    backbone = QwenBackbone(path=str(written))
    lively_model(backbone, torch.float32).save_pretrained(written)
    return written
