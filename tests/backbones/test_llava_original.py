"""The authors' layout on small folders with the published names: every tensor, logits, saving, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from lookright.backbones.quantization import loading_arguments
from lookright.errors import ConfigError
from lookright.packed.batch import pack
from lookright.reference.base import ModelPair
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.backbones.checkpoints import (
    SMALL,
    authors_config,
    authors_shapes,
    random_state,
    tower_shapes,
    write_json,
    write_sentencepiece,
    write_tower,
    write_weights,
)
from tests.compare import assert_close
from tests.examples import LONG, make_example, make_input, noise

TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    write_sentencepiece(folder, SMALL.vocabulary)
    return folder / "tokenizer.model"


@pytest.fixture()
def write(tmp_path: Path, tokenizer: Path) -> Callable[..., Path]:
    """Write a checkpoint and its tower: write(kind, shards, form, inside) -> the checkpoint's folder."""

    def make(kind: str = "bin", shards: int = 2, form: str = "clip", inside: bool = False, **keys: Any) -> Path:
        folder = tmp_path / "llava-v1.5"
        write_tower(tmp_path / "clip", SMALL, random_state(tower_shapes(SMALL, ""), seed=1), form)
        write_weights(folder, state(inside), kind, shards)
        write_json(folder / "config.json", authors_config(SMALL, str(tmp_path / "clip")) | keys)
        (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
        return folder

    return make


def state(inside: bool = False) -> dict[str, Tensor]:
    """What the checkpoint holds; a tower inside is another than the one of the CLIP folder."""
    return random_state(authors_shapes(SMALL, tower=inside))


def expected_tower(inside: bool) -> dict[str, Tensor]:
    """Names without a prefix."""
    if inside:
        return {name.removeprefix(TOWER): value for name, value in state(True).items() if name.startswith(TOWER)}
    return random_state(tower_shapes(SMALL, ""), seed=1)


def edit_config(folder: Path, **keys: Any) -> None:
    """Change keys of a config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | keys
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})


def authors_logits(inside: bool, ids: Tensor, spans: list[tuple[int, int]], pixels: list[Tensor]) -> Tensor:
    """float[L, V] by a plain LLaMA and a plain CLIP, put together as the authors' code does."""
    weights = state(inside)
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
def test_every_tensor_is_in_its_place(write: Callable[..., Path], kind: str, shards: int, inside: bool) -> None:
    model = LlavaBackbone(path=str(write(kind, shards, inside=inside))).build()
    found = {official_name(name): value for name, value in model.state_dict().items()}
    tower = {TOWER + name: value for name, value in expected_tower(inside).items()}
    wanted = state() | tower
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert not model.training and not any(buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize("form", ["clip", "vision", "bare"])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_towers_of_every_form(write: Callable[..., Path], tmp_path: Path, form: str, kind: str) -> None:
    folder = write()
    write_tower(tmp_path / "other", SMALL, random_state(tower_shapes(SMALL, ""), seed=2), form, kind=kind, shards=2)
    model = LlavaBackbone(path=str(folder), vision_tower=str(tmp_path / "other")).build()
    found = model.model.vision_tower.state_dict()
    wanted = random_state(tower_shapes(SMALL, ""), seed=2)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@torch.no_grad()
@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
def test_logits_are_those_of_the_authors_formula(write: Callable[..., Path], inside: bool) -> None:
    backbone = LlavaBackbone(path=str(write(inside=inside)))
    item = make_input(backbone, 3)
    ids, spans = item.prompt.input_ids, item.prompt.image_spans
    assert [stop - start for start, stop in spans] == [9, 9, 9]
    assert backbone.image_token_id == backbone.text_tokenizer.piece_id("<unk>") == 0
    found = backbone.build()(input_ids=ids[None], pixel_values=torch.stack(item.pixels)).logits[0]
    wanted = authors_logits(inside, ids, spans, item.pixels)
    assert found.shape == (len(ids), SMALL.vocabulary)
    assert_close(found, wanted, atol=1e-5, why="float32, the same products")


@torch.no_grad()
def test_packed_scores_are_those_of_the_authors_formula(write: Callable[..., Path]) -> None:
    """Through prompts, packing and scoring, as a training step goes."""
    backbone = LlavaBackbone(path=str(write()))
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


def test_pictures_are_prepared_as_the_tower_says(write: Callable[..., Path]) -> None:
    """Padded with the mean, scaled to its size, by its own mean and spread."""
    backbone = LlavaBackbone(path=str(write()))
    mean, spread = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])
    pixels = backbone.preprocess(Image.new("RGB", (84, 42), (255, 0, 51)), 1)
    assert pixels.shape == (3, 42, 42)
    colour = (torch.tensor([1.0, 0.0, 0.2]) - mean) / spread
    assert_close(pixels[:, 21, 21], colour, atol=1e-5, why="float32")
    padding = ((mean * 255).floor() / 255 - mean) / spread
    assert_close(pixels[:, 2, 21], padding, atol=1e-5, why="float32")


def test_ids_of_special_tokens_come_from_the_configuration(write: Callable[..., Path]) -> None:
    folder = write(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    backbone = LlavaBackbone(path=str(folder))
    assert (backbone.bos_token_id, backbone.end_token_ids, backbone.pad_token_id) == (1, [2], 0)
    prompt, (answer,) = backbone.encode_conversation("<image>\nred?", ["blue"], [(9, 9)])
    assert prompt.input_ids[0] == 1 and answer[-1] == 2 and backbone.decode(answer.tolist()) == "blue"
    edit_config(folder, bos_token_id=7, eos_token_id=5, pad_token_id=None)
    backbone = LlavaBackbone(path=str(folder))
    assert (backbone.bos_token_id, backbone.end_token_ids, backbone.pad_token_id) == (7, [5], 5)


def test_settings_come_from_the_configuration(write: Callable[..., Path]) -> None:
    keys = {"rms_norm_eps": 1e-3, "rope_theta": 5e5, "mm_vision_select_layer": -3, "model_type": "llava_llama"}
    backbone = LlavaBackbone(path=str(write(**keys, rope_scaling={"type": "linear", "factor": 2.0})))
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
def test_what_is_saved_is_what_was_loaded(write: Callable[..., Path], tmp_path: Path, kind: str, inside: bool) -> None:
    folder = write(kind, inside=inside)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    backbone = LlavaBackbone(path=str(folder))
    model = backbone.build()
    backbone.save_pretrained(model, tmp_path / "saved")
    found, wanted = saved_state(tmp_path / "saved"), state(inside)
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
def test_a_trained_tower_is_written_and_read_again(write: Callable[..., Path], tmp_path: Path, inside: bool) -> None:
    """The authors' code reads a checkpoint's tower where `unfreeze_mm_vision_tower` says that it was trained."""
    backbone = LlavaBackbone(path=str(write(inside=inside)))
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


def test_a_folder_is_saved_over_itself(write: Callable[..., Path]) -> None:
    folder = write("safetensors", inside=True)
    backbone = LlavaBackbone(path=str(folder))
    model = backbone.build()
    model.lm_head.weight.data += 1
    backbone.save_pretrained(model, folder)
    again = LlavaBackbone(path=str(folder)).build()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_tower_is_found_again_by_the_name_that_was_given(write: Callable[..., Path], tmp_path: Path) -> None:
    """The hub name stays in the folder, since the folder may go to a machine that reaches the hub."""
    folder, tower = write(mm_vision_tower="openai/clip-vit-large-patch14-336"), str(tmp_path / "clip")
    backbone = LlavaBackbone(path=str(folder), vision_tower=tower)
    backbone.save_pretrained(backbone.build(), tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["mm_vision_tower"] == "openai/clip-vit-large-patch14-336"
    again = LlavaBackbone(path=str(tmp_path / "saved"), vision_tower=tower).build()
    assert torch.equal(again.lm_head.weight, state()["lm_head.weight"])


# ---- without weights, and in 4 bits ----


def test_a_dry_run_reads_no_weights(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    for file in [*folder.glob("*.bin*"), *(tmp_path / "clip").glob("*.bin")]:
        file.unlink()
    backbone = LlavaBackbone(path=str(folder))
    with torch.device("meta"):
        model = backbone.build(weights=False)
    shapes = {official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == authors_shapes(SMALL, tower=True)


def test_4_bits_are_those_of_transformers(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = str(write())
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


# ---- refusals ----


def test_every_misfit_is_named(write: Callable[..., Path]) -> None:
    folder = write("safetensors", shards=1)
    wrong = state()
    del wrong["model.layers.1.mlp.up_proj.weight"]
    wrong["model.image_newline"] = torch.zeros(3)
    wrong["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # follows from the sizes
    wrong["model.mm_projector.2.bias"] = torch.zeros(31)
    write_weights(folder, wrong, "safetensors", 1)
    with pytest.raises(ConfigError) as caught:
        LlavaBackbone(path=str(folder)).build()
    message = str(caught.value)
    assert "model.layers.1.mlp.up_proj.weight is missing" in message
    assert "model.image_newline in model.safetensors is unknown" in message
    assert "model.mm_projector.2.bias in model.safetensors is (31,), config.json asks for (32,)" in message
    assert message.count("\n") == 3 and "inv_freq" not in message


def test_every_misfit_of_the_tower_is_named(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    wrong = random_state(tower_shapes(SMALL, ""))
    del wrong["encoder.layers.2.mlp.fc1.bias"]
    wrong["encoder.layers.3.mlp.fc1.bias"] = torch.zeros(40)
    write_tower(tmp_path / "clip", SMALL, wrong)
    with pytest.raises(ConfigError) as caught:
        LlavaBackbone(path=str(folder)).build()
    message = str(caught.value)
    assert f"the weights in {tmp_path / 'clip'} do not fit" in message
    assert "vision_model.encoder.layers.2.mlp.fc1.bias is missing" in message
    assert "vision_model.encoder.layers.3.mlp.fc1.bias in pytorch_model.bin is unknown" in message


def test_half_a_tower_inside_is_not_completed_from_elsewhere(write: Callable[..., Path]) -> None:
    folder = write(inside=True, shards=1)
    whole = state(inside=True)
    del whole[f"{TOWER}pre_layrnorm.weight"]
    write_weights(folder, whole, "bin", 1)
    with pytest.raises(ConfigError, match=f"{TOWER}pre_layrnorm.weight is missing"):
        LlavaBackbone(path=str(folder)).build()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": None, "num_hidden_layers": None}, "hidden_size is missing\n  num_hidden_layers is missing"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer is missing"),
        ({"mm_projector_type": "linear"}, "mm_projector_type=linear is not supported; LLaVA-1.5 has mlp2x_gelu"),
        ({"mm_projector_type": None}, "mm_projector_type=linear is not supported"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature=cls_patch is not supported"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True is not supported"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio=anyres is LLaVA-1.6's"),
        ({"mm_hidden_size": 1024}, "mm_hidden_size=1024 but the tower's hidden_size is 24"),
        ({"num_attention_heads": 5}, r"hidden size \(32\) is not a multiple of the number of attention heads \(5\)"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower; set backbone.vision_tower"),
        ({"model_type": "llava_mpt"}, "holds a llava_mpt model, not a LLaVA one"),
    ],
)
def test_configurations_that_are_refused(write: Callable[..., Path], keys: dict[str, Any], message: str) -> None:
    folder = write()
    edit_config(folder, **keys)
    with pytest.raises(ConfigError, match=message):
        LlavaBackbone(path=str(folder))


def test_towers_that_are_refused(write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tower = write(), tmp_path / "clip"

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("lookright.backbones.folder.snapshot_download", fail)
    with pytest.raises(ConfigError, match="backbone.vision_tower=some/clip is no local folder.*no connection"):
        LlavaBackbone(path=str(folder), vision_tower="some/clip")
    edit_config(folder, mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(ConfigError, match="mm_vision_tower of .*=openai/clip.*set backbone.vision_tower to a folder"):
        LlavaBackbone(path=str(folder))
    (tower / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="backbone.vision_tower=.* holds no preprocessor_config.json"):
        LlavaBackbone(path=str(folder), vision_tower=str(tower))
    write_json(tower / "preprocessor_config.json", {})
    write_json(tower / "config.json", {"model_type": "llama"})
    with pytest.raises(ConfigError, match="holds a llama model, not a CLIP one"):
        LlavaBackbone(path=str(folder), vision_tower=str(tower))


def test_missing_weights_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(shards=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ConfigError, match="lists pytorch_model-00002-of-00003.bin, not in the folder"):
        LlavaBackbone(path=str(folder)).build()
    (tmp_path / "clip" / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="mm_vision_tower of .* holds no weights"):
        LlavaBackbone(path=str(folder)).build()


def test_a_model_with_an_adapter_is_not_saved_as_a_checkpoint(write: Callable[..., Path], tmp_path: Path) -> None:
    backbone = LlavaBackbone(path=str(write()))
    policy = LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, backbone.build())
    with pytest.raises(ConfigError, match="merge it or remove it"):
        backbone.save_pretrained(policy.get_base_model(), tmp_path / "saved")


def test_names_turn_back() -> None:
    for name in authors_shapes(SMALL, tower=True):
        assert official_name(parameter_name(name)) == name


def test_no_picture_needs_a_token_of_its_own(write: Callable[..., Path]) -> None:
    """All ids lie in the vocabulary of 32,000, here 400."""
    backbone = LlavaBackbone(path=str(write()))
    prompt = backbone.encode_prompt("Image1:<image>\nImage2:<image>\nred?", [(4, 4), (5, 9)])
    assert prompt.input_ids.max() < SMALL.vocabulary and len(prompt.image_spans) == 2
    assert backbone.preprocess(noise((30, 20), 0), 2).shape == (3, 42, 42)
