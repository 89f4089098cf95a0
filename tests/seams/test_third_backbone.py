"""A third backbone is one class and one YAML outside the package; with a stock decoder it keeps the contract."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from lookright.backbones.base import Backbone
from lookright.commands.train import train
from lookright.errors import BackboneError
from lookright.packing.batch import pack
from lookright.packing.forward import decoder_rows
from lookright.serve.models import Models
from tests.backbones.contract import BackboneContract, Case, make_examples
from tests.examples import SIZES, noise
from tests.seams import qwen_vl
from tests.seams.qwen_vl import QwenBackbone
from tests.serve.conftest import said, served, shown


class TestThirdBackbone(BackboneContract):
    """The whole contract, without a trimmed layer."""

    @pytest.fixture(scope="class")
    def case(self, qwen_folder: Path) -> Case:
        return Case(make=lambda path: QwenBackbone(path=str(path)), folder=qwen_folder)

    @torch.no_grad()
    def test_its_decoder_returns_whole_rows_and_the_packed_pass_suffix_rows(
        self, backbone: Backbone, model: torch.nn.Module
    ) -> None:
        batch, returned = pack(make_examples(backbone, [(2, ["red", "no"])])), []
        backbone.language_model(model).register_forward_hook(
            lambda module, inputs, output: returned.append(output.last_hidden_state.shape[1])
        )
        rows = decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels))
        assert returned == [batch.layout.num_tokens] and len(rows) == len(batch.layout.suffix_index)
        assert len(rows) < batch.layout.num_tokens


def test_attention_that_was_never_set_is_an_error(qwen_folder: Path) -> None:
    backbone = QwenBackbone(path=str(qwen_folder))
    model = qwen_vl.QwenWithEyes.from_pretrained(qwen_folder)
    batch = pack(make_examples(backbone, [(1, ["red", "no"])]))
    with pytest.raises(BackboneError, match=r"attention of layers \[0, 1, 2\] of 3.*use_lookright_attention"):
        decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels))


def test_a_sliding_window_shorter_than_a_conversation_is_an_error(qwen_folder: Path, tmp_path: Path) -> None:
    """Of a stock decoder's settings the one that packed rows cannot keep; a longer window changes nothing."""
    shutil.copytree(qwen_folder, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"use_sliding_window": True, "max_window_layers": 1}
    settings["layer_types"] = ["full_attention", "sliding_attention", "sliding_attention"]
    example = make_examples(QwenBackbone(path=str(qwen_folder)), [(1, ["red", "blue circle"])])[0]
    longest = len(example.prompt.input_ids) + max(len(response.token_ids) for response in example.responses) - 1
    for window in (longest, longest - 1):
        (tmp_path / "config.json").write_text(json.dumps(settings | {"sliding_window": window}))
        backbone = QwenBackbone(path=str(tmp_path))
        model, batch = backbone.build(), pack([example])
        features = backbone.encode_images(model, batch.pixels)
        if window == longest:
            decoder_rows(backbone, model, batch, features)
            continue
        with pytest.raises(BackboneError, match=f"window of {window} tokens and a conversation of {longest}"):
            decoder_rows(backbone, model, batch, features)


def test_one_class_and_one_yaml_outside_the_package_train(
    qwen_folder: Path,
    composed: Callable[..., DictConfig],
    small_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(qwen_vl.__file__, tmp_path / "eyes_of_mine.py")
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text(
        f"_target_: eyes_of_mine.QwenBackbone\npath: {qwen_folder}\nmax_length: 512\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [override for override in small_run if not override.startswith("backbone.")]
    search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    summary = train(composed("train", search, "backbone=mine", *overrides, f"output={tmp_path / 'run'}"))
    assert summary["steps"] > 0 and (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_it_is_served_with_its_heat(qwen_folder: Path) -> None:
    """By what the contract says alone: how many heads it has is read off its attention."""
    models = Models(QwenBackbone(path=str(qwen_folder)), {}, torch.device("cpu"), torch.float32)
    with served(models) as live:
        content = [shown(noise(SIZES[0], 0)), said("what is it?")]
        heat = live.told(content, lookright={"heat": True})["choices"][0]["lookright"]["heat"]
        asked = {"messages": [{"role": "user", "content": content}], "token_ids": heat["token_ids"], "token": 0}
        by_head = live.client.post("/lookright/look", json=asked).json()
    assert heat["num_heads"] == by_head["num_heads"] == by_head["shape"][1]
    assert heat["num_heads"] == models.backbone.settings.num_attention_heads
