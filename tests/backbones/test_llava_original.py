"""The authors' layout on small folders with the published names: every tensor, logits, saving, 4 bits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.llava_original import official_name, parameter_name
from lookright.backbones.llava_stock import UNQUANTISED
from lookright.backbones.loading import with_adapter
from lookright.backbones.quantization import loading_arguments
from lookright.packing.batch import pack
from lookright.reference.base import ModelPair
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.backbones.checkpoints import AUTHORS_TOWER as TOWER
from tests.backbones.checkpoints import (
    SMALL,
    authors_shapes,
    authors_state,
    edit_config,
    random_state,
    tower_shapes,
    write_json,
    write_tower,
)
from tests.compare import assert_close
from tests.examples import LONG, make_example, make_input, noise, shake_adapters


def expected_tower(inside: bool) -> dict[str, Tensor]:
    """Names without a prefix."""
    if inside:
        return {
            name.removeprefix(TOWER): value for name, value in authors_state(True).items() if name.startswith(TOWER)
        }
    return random_state(tower_shapes(SMALL, ""), seed=1)


def authors_logits(inside: bool, ids: Tensor, spans: list[tuple[int, int]], pixels: list[Tensor]) -> Tensor:
    """float[L, V] by a plain LLaMA and a plain CLIP, put together as the authors' code does."""
    weights = authors_state(inside)
    tower = CLIPVisionModel(CLIPVisionConfig(**SMALL.vision_config)).eval()
    tower.load_state_dict(expected_tower(inside))
    keys = {"vocab_size": SMALL.vocabulary, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    llama = LlamaForCausalLM(LlamaConfig(**SMALL.text_config, **keys)).eval()
    parts = {name: value for name, value in weights.items() if "mm_projector" not in name and TOWER not in name}
    llama.load_state_dict(parts)
    seen = tower(torch.stack(pixels), output_hidden_states=True).hidden_states[-2][:, 1:]
    first, second = (
        (weights[f"model.mm_projector.{place}.weight"], weights[f"model.mm_projector.{place}.bias"]) for place in (0, 2)
    )
    features = functional.linear(functional.gelu(functional.linear(seen, *first)), *second)
    embeds = llama.get_input_embeddings()(ids).clone()
    for (start, stop), rows in zip(spans, features, strict=True):
        embeds[start:stop] = rows
    return llama(inputs_embeds=embeds[None]).logits[0]


@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
@pytest.mark.parametrize(("kind", "shards"), [("bin", 3), ("old.bin", 2), ("safetensors", 3), ("safetensors", 1)])
def test_every_tensor_is_in_its_place(
    write_original: Callable[..., Path], kind: str, shards: int, inside: bool
) -> None:
    model = LlavaBackbone(path=str(write_original(kind, shards, inside=inside))).build()
    found = {official_name(name): value for name, value in model.state_dict().items()}
    tower = {TOWER + name: value for name, value in expected_tower(inside).items()}
    wanted = authors_state() | tower
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert not model.training and not any(buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize("form", ["clip", "vision", "bare"])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_towers_of_every_form(write_original: Callable[..., Path], tmp_path: Path, form: str, kind: str) -> None:
    folder = write_original()
    write_tower(tmp_path / "other", SMALL, random_state(tower_shapes(SMALL, ""), seed=2), form, kind=kind, shards=2)
    model = LlavaBackbone(path=str(folder), vision_tower=str(tmp_path / "other")).build()
    found = model.model.vision_tower.state_dict()
    wanted = random_state(tower_shapes(SMALL, ""), seed=2)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@torch.no_grad()
@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
def test_logits_are_those_of_the_authors_formula(write_original: Callable[..., Path], inside: bool) -> None:
    backbone = LlavaBackbone(path=str(write_original(inside=inside)))
    item = make_input(backbone, 3)
    ids, spans = item.prompt.input_ids, item.prompt.image_spans
    assert [stop - start for start, stop in spans] == [9, 9, 9]
    assert backbone.image_token_id == backbone.text_tokenizer.piece_id("<unk>") == 0
    found = backbone.build()(input_ids=ids[None], pixel_values=torch.stack(item.pixels)).logits[0]
    wanted = authors_logits(inside, ids, spans, item.pixels)
    assert found.shape == (len(ids), SMALL.vocabulary)
    assert_close(found, wanted, atol=1e-5, why="float32, the same products")


@torch.no_grad()
def test_packed_scores_are_those_of_the_authors_formula(write_original: Callable[..., Path]) -> None:
    """Through prompts, packing and scoring, as a training step goes."""
    backbone = LlavaBackbone(path=str(write_original()))
    policy = LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, backbone.build())
    examples = [make_example(backbone, 2, ["red", LONG]), make_example(backbone, 1, ["blue circle"], seed=5)]
    pair = ModelPair(backbone, policy, None).eval()
    batch = pack(examples)
    found = pair.score(batch, pair.image_features(batch)).logps
    wanted = []
    for example in examples:
        length = len(example.prompt.input_ids)
        for response in example.responses:
            row = torch.cat([example.prompt.input_ids, response.token_ids])
            logits = authors_logits(False, row, example.prompt.image_spans, example.pixels)
            logps = logits[length - 1 : -1].log_softmax(-1)
            wanted.append(
                logps[torch.arange(len(response.token_ids)), response.token_ids][response.num_unscored :].sum()
            )
    assert_close(found, torch.stack(wanted), atol=1e-4, why="float32 sums over a dozen tokens")


def test_pictures_are_prepared_as_the_tower_says(write_original: Callable[..., Path]) -> None:
    """Padded with the mean, scaled to its size, by its own mean and spread."""
    backbone = LlavaBackbone(path=str(write_original()))
    mean, spread = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])
    pixels = backbone.preprocess(Image.new("RGB", (84, 42), (255, 0, 51)), 1)
    assert pixels.shape == (3, 42, 42)
    colour = (torch.tensor([1.0, 0.0, 0.2]) - mean) / spread
    assert_close(pixels[:, 21, 21], colour, atol=1e-5, why="float32")
    padding = ((mean * 255).floor() / 255 - mean) / spread
    assert_close(pixels[:, 2, 21], padding, atol=1e-5, why="float32")


def test_ids_of_special_tokens_come_from_the_configuration(write_original: Callable[..., Path]) -> None:
    folder = write_original(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    backbone = LlavaBackbone(path=str(folder))
    assert (backbone.bos_token_id, backbone.end_token_ids, backbone.pad_token_id) == (1, [2], 0)
    prompt, (answer,) = backbone.encode_conversation("<image>\nred?", ["blue"], [(9, 9)])
    assert prompt.input_ids[0] == 1 and answer[-1] == 2 and backbone.decode(answer.tolist()) == "blue"
    edit_config(folder, bos_token_id=7, eos_token_id=5, pad_token_id=None)
    backbone = LlavaBackbone(path=str(folder))
    assert (backbone.bos_token_id, backbone.end_token_ids, backbone.pad_token_id) == (7, [5], 5)


def test_settings_come_from_the_configuration(write_original: Callable[..., Path]) -> None:
    keys = {"rms_norm_eps": 1e-3, "rope_theta": 5e5, "mm_vision_select_layer": -3, "model_type": "llava_llama"}
    backbone = LlavaBackbone(path=str(write_original(**keys, rope_scaling={"type": "linear", "factor": 2.0})))
    text = backbone.config.text_config
    assert (text.rms_norm_eps, text.rope_parameters["rope_theta"], text.rope_parameters["factor"]) == (1e-3, 5e5, 2)
    assert backbone.config.vision_feature_layer == -3 and backbone.num_layers == SMALL.layers
    rotary = backbone.build().model.language_model.rotary_emb
    # Su et al. 2021, positions divided by 2
    wanted = 5e5 ** -(torch.arange(0, 8, 2) / 8) / 2
    assert_close(rotary.inv_freq, wanted, rtol=1e-6, why="float32")


# ---- saving ----


def saved_state(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@torch.no_grad()
@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_what_is_saved_is_what_was_loaded(
    write_original: Callable[..., Path], tmp_path: Path, kind: str, inside: bool
) -> None:
    folder = write_original(kind, inside=inside)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    backbone = LlavaBackbone(path=str(folder))
    model = backbone.build()
    backbone.save_pretrained(model, tmp_path / "saved")
    found, wanted = saved_state(tmp_path / "saved"), authors_state(inside)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    config, before = (json.loads((one / "config.json").read_text()) for one in (tmp_path / "saved", folder))
    assert config == before | {"torch_dtype": "float32"}
    for name in ("tokenizer.model", "generation_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    again = LlavaBackbone(path=str(tmp_path / "saved"))
    item = make_input(backbone, 2)
    assert torch.equal(make_input(again, 2).prompt.input_ids, item.prompt.input_ids)
    inputs = {"input_ids": item.prompt.input_ids[None], "pixel_values": torch.stack(item.pixels)}
    assert torch.equal(again.build()(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
def test_a_trained_tower_is_written_and_read_again(
    write_original: Callable[..., Path], tmp_path: Path, inside: bool
) -> None:
    """The authors' code reads a checkpoint's tower where `unfreeze_mm_vision_tower` says that it was trained."""
    backbone = LlavaBackbone(path=str(write_original(inside=inside)))
    model = backbone.build(dtype=torch.bfloat16)
    FullTuning(train_projector=True, train_vision=True).apply(backbone, model)
    backbone.save_pretrained(model, tmp_path / "untouched")
    assert (f"{TOWER}pre_layrnorm.bias" in saved_state(tmp_path / "untouched")) == inside
    with torch.no_grad():
        model.model.vision_tower.post_layernorm.bias[-1] += 1
        model.model.multi_modal_projector.linear_2.weight[0, 0] += 1
    backbone.save_pretrained(model, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["unfreeze_mm_vision_tower"] is True and config["torch_dtype"] == "bfloat16"
    assert saved_state(tmp_path / "saved").keys() == authors_shapes(SMALL, tower=True).keys()
    again = LlavaBackbone(path=str(tmp_path / "saved")).build(dtype=torch.bfloat16)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_folder_is_saved_over_itself(write_original: Callable[..., Path]) -> None:
    folder = write_original("safetensors", inside=True)
    backbone = LlavaBackbone(path=str(folder))
    model = backbone.build()
    model.lm_head.weight.data += 1
    backbone.save_pretrained(model, folder)
    again = LlavaBackbone(path=str(folder)).build()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_tower_is_found_again_by_the_name_that_was_given(
    write_original: Callable[..., Path], tmp_path: Path
) -> None:
    """The hub name stays in the folder, since the folder may go to a machine that reaches the hub."""
    folder, tower = write_original(mm_vision_tower="openai/clip-vit-large-patch14-336"), str(tmp_path / "clip")
    backbone = LlavaBackbone(path=str(folder), vision_tower=tower)
    backbone.save_pretrained(backbone.build(), tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["mm_vision_tower"] == "openai/clip-vit-large-patch14-336"
    again = LlavaBackbone(path=str(tmp_path / "saved"), vision_tower=tower).build()
    assert torch.equal(again.lm_head.weight, authors_state()["lm_head.weight"])


# ---- without weights, and in 4 bits ----


def test_a_dry_run_reads_no_weights(write_original: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_original()
    for file in [*folder.glob("*.bin*"), *(tmp_path / "clip").glob("*.bin")]:
        file.unlink()
    backbone = LlavaBackbone(path=str(folder))
    with torch.device("meta"):
        model = backbone.build(weights=False)
    shapes = {official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == authors_shapes(SMALL, tower=True)


def test_4_bits_are_those_of_transformers(write_original: Callable[..., Path], tmp_path: Path) -> None:
    folder = str(write_original())
    plain = LlavaBackbone(path=folder).build()
    plain.save_pretrained(tmp_path / "stock")
    quantised = LlavaBackbone(path=folder, quantization="4bit").build(dtype=torch.bfloat16)
    loading = loading_arguments("4bit", torch.bfloat16, UNQUANTISED)
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "stock", dtype=torch.bfloat16, **loading)
    assert sum(isinstance(part, Linear4bit) for part in quantised.modules()) == 7 * SMALL.layers
    found, wanted = quantised.state_dict(), stock.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    layer, other = (one.model.language_model.layers[1].mlp.up_proj for one in (quantised, stock))
    assert (layer.compute_dtype, layer.weight.quant_state.nested) == (other.compute_dtype, True)
    policy = LoraTuning(r=2, alpha=4, dropout=0.0).apply(LlavaBackbone(path=folder, quantization="4bit"), quantised)
    assert sum(hasattr(part, "lora_A") for part in policy.modules()) == 7 * SMALL.layers


def test_adapters_come_back(write_original: Callable[..., Path], tmp_path: Path) -> None:
    backbone = LlavaBackbone(path=str(write_original()))
    policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, backbone.build()))
    policy.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == backbone.path
    loaded = with_adapter(backbone.build(), str(tmp_path / "adapter")).state_dict()
    wanted = policy.state_dict()
    assert loaded.keys() == wanted.keys() and all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def test_names_turn_back() -> None:
    for name in authors_shapes(SMALL, tower=True):
        assert official_name(parameter_name(name)) == name


def test_no_picture_needs_a_token_of_its_own(write_original: Callable[..., Path]) -> None:
    """All ids lie in the vocabulary of 32,000, here 400."""
    backbone = LlavaBackbone(path=str(write_original()))
    prompt = backbone.encode_prompt("Image1:<image>\nImage2:<image>\nred?", [(4, 4), (5, 9)])
    assert prompt.input_ids.max() < SMALL.vocabulary and len(prompt.image_spans) == 2
    assert backbone.preprocess(noise((30, 20), 0), 2).shape == (3, 42, 42)
