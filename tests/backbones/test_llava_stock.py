"""transformers' layout on small folders: published key names of 4.36 and today's, stock loading of what is saved."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.types import Turn
from tests.backbones.checkpoints import (
    SMALL,
    Shapes,
    clip_preprocessor,
    random_state,
    stock_config,
    stock_shapes,
    write_json,
    write_weights,
)
from tests.examples import lively_model, make_input, noise

MARGIN = 8
"""Rows of the embeddings that no token has; the published models have 62."""


@pytest.fixture()
def write(llava_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a folder as `llava-hf` published it: write(old, kind, shards)."""

    def make(old: bool = True, kind: str = "safetensors", shards: int = 3) -> Path:
        folder = tmp_path / "llava-1.5-hf"
        tokenizer = AutoTokenizer.from_pretrained(llava_folder)
        tokenizer.add_special_tokens({"pad_token": AddedToken("<pad>", special=True, normalized=False)})
        tokenizer.save_pretrained(folder)
        image = tokenizer.convert_tokens_to_ids("<image>")
        sizes = replace(SMALL, vocabulary=len(tokenizer) + MARGIN)
        write_json(folder / "config.json", stock_config(sizes, image) | {"pad_token_id": tokenizer.pad_token_id})
        preprocessor = clip_preprocessor(sizes) | {"image_processor_type": "CLIPImageProcessor"}
        write_json(folder / "preprocessor_config.json", preprocessor)
        write_weights(folder, random_state(stock_shapes(sizes, old)), kind, shards)
        return folder

    return make


def shapes_in(folder: Path, old: bool) -> Shapes:
    config = json.loads((folder / "config.json").read_text())
    return stock_shapes(replace(SMALL, vocabulary=config["text_config"]["vocab_size"]), old)


def saved_state(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("old", [True, False], ids=["names of 4.36", "names of today"])
@pytest.mark.parametrize(("kind", "shards"), [("safetensors", 3), ("safetensors", 1), ("bin", 2)])
def test_every_tensor_is_in_its_place(write: Callable[..., Path], old: bool, kind: str, shards: int) -> None:
    folder = write(old, kind, shards)
    model = LlavaBackbone(path=str(folder)).build()
    # both lists run over the same parts in the same order
    today = dict(zip(shapes_in(folder, old), shapes_in(folder, old=False), strict=True))
    wanted = {today[name]: value for name, value in random_state(shapes_in(folder, old)).items()}
    assert equal(dict(model.state_dict()), wanted)


@torch.no_grad()
@pytest.mark.parametrize("old", [True, False], ids=["names of 4.36", "names of today"])
def test_what_is_saved_has_the_names_that_were_loaded(write: Callable[..., Path], tmp_path: Path, old: bool) -> None:
    folder = write(old)
    backbone = LlavaBackbone(path=str(folder))
    model = backbone.build()
    backbone.save_pretrained(model, tmp_path / "saved")
    found, wanted = saved_state(tmp_path / "saved"), random_state(shapes_in(folder, old))
    assert equal(found, wanted)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    again = LlavaBackbone(path=str(tmp_path / "saved"))
    item, other = make_input(backbone, 2), make_input(again, 2)
    assert torch.equal(item.prompt.input_ids, other.prompt.input_ids)
    assert all(torch.equal(one, two) for one, two in zip(item.pixels, other.pixels, strict=True))
    inputs = {"input_ids": item.prompt.input_ids[None], "pixel_values": torch.stack(item.pixels)}
    assert torch.equal(again.build()(**inputs).logits, model(**inputs).logits)


def test_the_published_configuration_is_read_as_it_is(write: Callable[..., Path]) -> None:
    backbone = LlavaBackbone(path=str(write()))
    text, vision = backbone.config.text_config, backbone.config.vision_config
    assert (text.rms_norm_eps, text.max_position_embeddings, text.eos_token_id) == (1e-5, 4096, 2)
    assert (vision.hidden_act, vision.num_hidden_layers, backbone.config.vision_feature_layer) == ("quick_gelu", 3, -2)
    tokenizer = AutoTokenizer.from_pretrained(backbone.path)
    assert backbone.pad_token_id == tokenizer.convert_tokens_to_ids("<pad>") != 0
    assert (backbone.bos_token_id, backbone.end_token_ids) == (1, [2])
    assert tuple(backbone.processor.image_mean) == (0.48, 0.46, 0.41)


# ---- stock classes on what is saved ----


@torch.no_grad()
@pytest.mark.parametrize("aspect", ["pad", "crop"])
@pytest.mark.parametrize("system", ["", 'A "chat" — kurz.\nPolite.'], ids=["no system prompt", "system prompt"])
def test_stock_processor_and_model_give_our_ids_pixels_and_logits(
    llava_folder: Path, tmp_path: Path, aspect: str, system: str
) -> None:
    backbone = LlavaBackbone(path=str(llava_folder), image_aspect=aspect, system_prompt=system)
    model = lively_model(backbone, torch.float32)
    backbone.save_pretrained(model, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    pictures = [noise((90, 31), 0), noise((20, 70), 1)]
    prompt = "Image1:<image>\nImage2:<image>\nIn Image2, what color?"
    text = processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    inputs = processor(images=pictures, text=text, return_tensors="pt")
    ours = backbone.encode_prompt(prompt, [picture.size for picture in pictures])
    assert text == backbone.conversation_text(prompt, None)
    assert inputs["input_ids"].tolist() == [ours.input_ids.tolist()]
    pixels = torch.stack([backbone.preprocess(picture, 2) for picture in pictures])
    assert torch.equal(inputs["pixel_values"], pixels)
    assert torch.equal(stock(**inputs).logits, model(input_ids=ours.input_ids[None], pixel_values=pixels).logits)


@torch.no_grad()
def test_stock_processor_and_model_give_our_ids_and_logits_of_several_turns(llava_folder: Path, tmp_path: Path) -> None:
    backbone = LlavaBackbone(path=str(llava_folder), system_prompt="A chat.")
    model = lively_model(backbone, torch.float32)
    backbone.save_pretrained(model, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    pictures = [noise((90, 31), 0), noise((20, 70), 1), noise((30, 30), 2)]
    history = [Turn("<image>\nwhat color?", "red, no?"), Turn(" so? ", "yes\n")]
    question = "Image2:<image>\nImage3:<image>\nIn Image3, what color?"
    messages = [
        {"role": role, "content": text}
        for turn in history
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    text = processor.apply_chat_template([*messages, {"role": "user", "content": question}], add_generation_prompt=True)
    inputs = processor(images=pictures, text=text, return_tensors="pt")
    ours = backbone.encode_prompt(question, [picture.size for picture in pictures], history)
    assert inputs["input_ids"].tolist() == [ours.input_ids.tolist()]
    pixels = torch.stack([backbone.preprocess(picture, 3) for picture in pictures])
    assert torch.equal(stock(**inputs).logits, model(input_ids=ours.input_ids[None], pixel_values=pixels).logits)


def test_chat_template_by_hand(llava: LlavaBackbone, llava_folder: Path, tmp_path: Path) -> None:
    """The turns of vicuna_v1: a space behind the question, the end token behind the answer."""
    backbone = LlavaBackbone(path=str(llava_folder), system_prompt="A chat.")
    backbone.save_pretrained(lively_model(llava, torch.float32), tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    question = [{"type": "image"}, {"type": "text", "text": "red?"}]
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "blue?"},
    ]
    found = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert found == "A chat. USER: <image>\nred? ASSISTANT: yes</s>USER: blue? ASSISTANT:"
    system = {"role": "system", "content": "Another."}
    assert processor.apply_chat_template([system, *turns[2:]]) == "Another. USER: blue? "
    ids = processor.apply_chat_template(turns[:1], images=None, add_generation_prompt=True, tokenize=False)
    assert ids == backbone.conversation_text("<image>\nred?", None)


# ---- refusals ----


def test_no_tensor_is_fresh_in_silence(write: Callable[..., Path]) -> None:
    folder = write(shards=1)
    state = random_state(shapes_in(folder, old=True))
    del state["language_model.model.layers.1.mlp.up_proj.weight"]
    state["multi_modal_projector.linear_2.bias"] = torch.zeros(31)
    state["language_model.model.layers.3.mlp.up_proj.weight"] = torch.zeros(48, 32)
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # follows from the sizes
    write_weights(folder, state, "safetensors", 1)
    with pytest.raises(ConfigError) as caught:
        LlavaBackbone(path=str(folder)).build()
    message = str(caught.value)
    assert "language_model.layers.1.mlp.up_proj.weight is missing" in message
    assert "multi_modal_projector.linear_2.bias is (31,), config.json asks for (32,)" in message
    assert "language_model.layers.3.mlp.up_proj.weight is unknown" in message
    assert message.count("\n") == 3 and "inv_freq" not in message


def test_folders_that_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    with pytest.raises(ConfigError, match=r"backbone\.vision_tower=clip is of no use.*set backbone.vision_tower=null"):
        LlavaBackbone(path=str(folder), vision_tower="clip")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"vision_feature_select_strategy": "full"})
    with pytest.raises(ConfigError, match="vision_feature_select_strategy=full is not LLaVA-1.5's"):
        LlavaBackbone(path=str(folder))
    write_json(folder / "config.json", config)
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(ConfigError, match=f"backbone.path={folder}: .*no file named"):
        LlavaBackbone(path=str(folder)).build()
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json: not valid json"):
        LlavaBackbone(path=str(folder))


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("transformers.configuration_utils.cached_file", fail)
    with pytest.raises(ConfigError, match="backbone.path=some/llava: its config.json cannot be read"):
        LlavaBackbone(path="some/llava")


def test_a_model_with_an_adapter_is_not_saved_as_a_checkpoint(llava: LlavaBackbone, tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = lively_model(llava)
    assert isinstance(model, LlavaForConditionalGeneration)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["o_proj"]), model)
    with pytest.raises(ConfigError, match="merge it or remove it"):
        llava.save_pretrained(model, tmp_path)
