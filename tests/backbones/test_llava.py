"""Prompts, pictures and folders of the LLaVA backbone."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from lookright.backbones.llava import LlavaBackbone, _pad_token_id
from lookright.backbones.prompts import expand_images
from lookright.errors import ConfigError
from lookright.types import Turn
from tests.compare import assert_close
from tests.examples import lively_model, make_input, noise
from tests.plain import stock_model


def text_of(backbone: LlavaBackbone, ids: torch.Tensor) -> str:
    return AutoTokenizer.from_pretrained(backbone.path).decode(ids, skip_special_tokens=False)


def test_template_and_expanded_pictures(llava: LlavaBackbone) -> None:
    prompt = llava.encode_prompt("Image1:<image>\nImage2:<image>\nIn Image2, yes?", [(4, 4), (9, 5)])
    image = "<image>" * 9
    assert text_of(llava, prompt.input_ids) == f"<s>USER: Image1:{image}\nImage2:{image}\nIn Image2, yes? ASSISTANT:"
    assert [stop - start for start, stop in prompt.image_spans] == [9, 9]
    marked = torch.zeros(len(prompt.input_ids), dtype=torch.bool)
    for start, stop in prompt.image_spans:
        marked[start:stop] = True
    assert torch.equal(marked, prompt.input_ids == llava.config.image_token_id)


def test_system_prompt_opens_the_conversation(llava_folder: Path) -> None:
    backbone = LlavaBackbone(path=str(llava_folder), system_prompt="A chat.")
    assert text_of(backbone, backbone.encode_prompt("yes?", []).input_ids) == "<s>A chat. USER: yes? ASSISTANT:"


def test_turns_follow_their_end_token_without_a_space(llava_folder: Path) -> None:
    backbone = LlavaBackbone(path=str(llava_folder), system_prompt="A chat.")
    history = [Turn("<image>\nred?", "yes"), Turn("blue?", " no ")]
    ids = backbone.encode_prompt("Image2:<image>\nso?", [(4, 4), (9, 5)], history).input_ids
    image = "<image>" * 9
    assert text_of(backbone, ids) == (
        f"<s>A chat. USER: {image}\nred? ASSISTANT: yes</s>USER: blue? ASSISTANT:  no </s>USER: Image2:{image}\nso? "
        "ASSISTANT:"
    )
    assert ids.tolist().count(backbone.end_token_ids[0]) == 2


def test_expanded_parts_by_hand() -> None:
    parts = [torch.tensor([1, 2]), torch.tensor([], dtype=torch.long), torch.tensor([3])]
    found = expand_images(parts, [2, 3], fill=9)
    assert found.input_ids.tolist() == [1, 2, 9, 9, 9, 9, 9, 3] and found.image_spans == [(2, 4), (4, 7)]


def test_pictures_are_square_and_any_mode_is_read(llava: LlavaBackbone) -> None:
    picture = noise((90, 31), 0)
    pixels = llava.preprocess(picture, 1)
    assert pixels.shape == (3, 42, 42) and pixels.dtype == torch.float32
    grey = llava.preprocess(picture.convert("L"), 1)
    assert torch.equal(grey, llava.preprocess(picture.convert("L").convert("RGB"), 1))
    assert not torch.equal(grey, pixels)


@torch.no_grad()
def test_features_are_those_of_the_stock_model(llava: LlavaBackbone) -> None:
    model = lively_model(llava)
    pixels = make_input(llava, 5).pixels
    found = llava.encode_images(model, pixels)
    wanted = stock_model(llava, model).get_image_features(torch.stack(pixels).double()).pooler_output
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=1e-5, why="stock eager attention takes its softmax in float32")
    assert llava.encode_images(model, []) == []


@torch.no_grad()
def test_without_anything_special_the_model_is_the_stock_model(llava: LlavaBackbone) -> None:
    """Forward and cache: our attention function stands aside, and the last layer is whole."""
    model = lively_model(llava)
    item = make_input(llava, 3)
    inputs = {"input_ids": item.prompt.input_ids[None], "pixel_values": torch.stack(item.pixels).double()}
    assert torch.equal(model(**inputs).logits, stock_model(llava, model, "sdpa")(**inputs).logits)
    kept = model(**inputs, use_cache=True).past_key_values
    after = model(input_ids=torch.tensor([[5]]), past_key_values=kept).logits
    longer = torch.cat([item.prompt.input_ids, torch.tensor([5])])[None]
    whole = model(input_ids=longer, pixel_values=inputs["pixel_values"]).logits[:, -1:]
    assert_close(after, whole, atol=1e-4, why="float32 norms inside, logits of up to 10")


def test_saved_folders_load_as_they_were(llava: LlavaBackbone, tmp_path: Path) -> None:
    model = lively_model(llava, torch.float32)
    llava.save_pretrained(model, tmp_path)
    again = LlavaBackbone(path=str(tmp_path))
    loaded = again.build()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    found, wanted = (side.encode_prompt("<image>\nIn Image1, 12 red?", [(4, 4)]) for side in (again, llava))
    assert found.input_ids.tolist() == wanted.input_ids.tolist()
    assert torch.equal(again.preprocess(noise((60, 33), 1), 1), llava.preprocess(noise((60, 33), 1), 1))
    stock = type(model).from_pretrained(tmp_path)
    assert isinstance(stock, PreTrainedModel) and stock.state_dict().keys() == model.state_dict().keys()


def test_building_twice_leaves_the_configuration_alone(llava: LlavaBackbone) -> None:
    before = copy.deepcopy(llava.config).to_dict()
    llava.build(weights=False)
    assert llava.config.to_dict() == before


def test_the_folder_of_another_square_still_follows_image_aspect(llava_folder: Path) -> None:
    """LLaVA's published folders say crop; the setting of the backbone decides, in pixels and in geometry."""
    picture = noise((84, 42), 0)
    padded, cropped = (LlavaBackbone(path=str(llava_folder), image_aspect=aspect) for aspect in ("pad", "crop"))
    assert not torch.equal(padded.preprocess(picture, 1), cropped.preprocess(picture, 1))
    assert padded.token_map((84, 42), 1).coverage((0, 0, 84, 42)).sum() == pytest.approx(4.5)
    assert cropped.token_map((84, 42), 1).coverage((0, 0, 84, 42)).sum() == pytest.approx(9)


def test_refused_folders(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backbone.path is not set"):
        LlavaBackbone(path=None)
    with pytest.raises(ConfigError, match="is no folder here.*; set backbone.path"):
        LlavaBackbone(path=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="image_aspect='stretch' is unknown; valid: pad, crop"):
        LlavaBackbone(path=str(llava_folder), image_aspect="stretch")
    text_only = json.loads((llava_folder / "config.json").read_text())["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(text_only))
    with pytest.raises(ConfigError, match="holds a llama model, not a LLaVA one"):
        LlavaBackbone(path=str(tmp_path))


def test_a_missing_pad_token_is_the_end_token_and_id_zero_is_an_id(llava_folder: Path, llava: LlavaBackbone) -> None:
    assert llava.pad_token_id == 0
    tokenizer = AutoTokenizer.from_pretrained(llava_folder)
    assert _pad_token_id(tokenizer, end=2) == 0
    tokenizer.pad_token = None
    assert _pad_token_id(tokenizer, end=2) == 2
