"""The 4-bit base: equal to a plain model of the same rounded weights, for both families; what is refused where."""

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from torch import nn

from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import with_adapter
from lookright.backbones.quantization import BYTES_PER_WEIGHT, CPU_LAYOUT, keep_trainable, loading_arguments
from lookright.errors import ConfigError
from lookright.packing.batch import PackedBatch, move, pack
from lookright.packing.forward import RatioRead
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.frozen_copy import FrozenCopy
from lookright.reference.identity import describe_components
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from recipes.tiny.folders import write_llava_folder
from recipes.tiny.ixc25_folder import write_ixc25_folder
from tests.compare import assert_close, assert_same_gradients
from tests.examples import LONG, gradients, lively_model, make_example, shake_adapters

FAMILIES = {
    "tiny_llava": (LlavaBackbone, 6 * 7),
    "tiny_ixc25": (Ixc25Backbone, 6 * 5),
}
"""Class, and linear layers of the decoder."""
ASSETS = Path(importlib.util.find_spec("lookright").origin).parent / "backbones" / "assets"


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Backbone, Backbone, int]:
    """The shipped small model as it is, in 4 bits, and its number of linear layers."""
    made, count = FAMILIES[request.param]
    path = str(ASSETS / request.param)
    return made(path=path), made(path=path, quantization="4bit"), count


def make_pair(backbone: Backbone, model: nn.Module | None = None, reference: Reference | None = None) -> ModelPair:
    torch.manual_seed(0)
    model = backbone.build() if model is None else model
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(backbone, model)
    return ModelPair(backbone, shake_adapters(policy), reference or AdapterOff()).train()


def make_batch(backbone: Backbone) -> PackedBatch:
    return pack([make_example(backbone, 2, ["red", LONG]), make_example(backbone, 1, ["blue circle", "no"], seed=5)])


def rounded(plain: nn.Module, four_bit: nn.Module) -> nn.Module:
    """The plain model with the weights that the other one stands for."""
    found = {name: part for name, part in four_bit.named_modules() if isinstance(part, Linear4bit)}
    for name, part in found.items():
        weight = dequantize_4bit(part.weight.data, part.weight.quant_state)
        plain.get_submodule(name).weight.data.copy_(weight)
    return plain


def test_a_step_is_that_of_the_rounded_weights(family: tuple[Backbone, Backbone, int]) -> None:
    """Log-probabilities of policy and reference, attention ratio, and the gradients of all adapters."""
    backbone, four_bit, count = family
    quantised = four_bit.build()
    plain = rounded(backbone.build(), quantised)
    assert sum(isinstance(part, Linear4bit) for part in quantised.modules()) == count
    batch, found = make_batch(backbone), []
    for one, model in ((backbone, plain), (four_bit, quantised)):
        pair = make_pair(one, model)
        features = pair.image_features(batch)
        output = pair.score(batch, features, [RatioRead(layers=(1, 2))])
        reference = pair.reference_logps(batch, features)
        values = torch.cat([output.logps, output.attention_ratio])
        found.append((values, reference, gradients(values.sum(), pair)))
    (values, reference, wanted), (quick, quick_reference, given) = found
    assert not torch.allclose(values[:4], reference), "the adapters are without effect"
    assert_close(quick, values, atol=1e-3, rtol=1e-5, why="float32 products in another order")
    assert_close(quick_reference, reference, atol=1e-3, rtol=1e-5, why="float32 products in another order")
    trained = {name for name, gradient in given.items() if gradient is not None and gradient.any()}
    assert len(trained) == 2 * count and all(".lora_" in name for name in trained)
    assert_same_gradients(
        {name: given[name] for name in trained}, {name: wanted[name] for name in trained}, rtol=1e-3, why="float32"
    )


def write_folder(name: str, folder: Path, width: int) -> None:
    """A family's folder with sharp weights; `width` is that of every 4-bit layer's input but the MLP's last."""
    text = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"patch_size": 14, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    words, heads = [f"USER: ASSISTANT: Image1: Image2: In Image1, what color is the shape? {LONG}"], {}
    if name == "tiny_llava":
        heads = {"num_key_value_heads": 2}
        vision |= {"image_size": 42, "num_attention_heads": 2}
        write_llava_folder(folder, words, vocab_size=330, text=text | heads, vision=vision)
    else:
        heads = {"num_key_value_heads": 2, "plora_rank": 4, "plora_alpha": 8.0}
        vision |= {"image_size": 84, "num_attention_heads": 2}
        write_ixc25_folder(folder, words, vocab_size=340, text=text | heads, vision=vision)
    backbone = FAMILIES[name][0](path=str(folder))
    backbone.save_pretrained(lively_model(backbone, torch.float32), folder)


# 96 and 160 are no multiples of 64, the weights that share a scale: a row's weights then begin amid a block
@pytest.mark.parametrize("width", [96, 128, 160])
@pytest.mark.parametrize("units", [True, False], ids=["bfloat16 units", "none"])
@pytest.mark.parametrize("copied", [False, True], ids=["adapters off", "frozen copy"])
@pytest.mark.parametrize("name", FAMILIES)
def test_after_a_reference_pass_a_step_is_still_that_of_the_rounded_weights(
    name: str, copied: bool, units: bool, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the CPU can: no layer repacks its weight in the first pass, in evaluation mode without gradients."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: units)
    assert getattr(Linear4bit(64, 64), CPU_LAYOUT) is units, "bitsandbytes asks elsewhere what the CPU can"
    write_folder(name, tmp_path, width)
    backbone, four_bit = (FAMILIES[name][0](path=str(tmp_path), quantization=kind) for kind in (None, "4bit"))
    quantised = four_bit.build()
    plain = rounded(backbone.build(), quantised)
    batch, found = make_batch(backbone), []
    for one, model in ((backbone, plain), (four_bit, quantised)):
        pair = make_pair(one, model, FrozenCopy() if copied else None)
        pair.eval()
        with torch.no_grad():
            features = pair.image_features(batch)
            before = pair.score(batch, features).logps
            reference = pair.reference_logps(batch, features)
        pair.train()
        logps = pair.score(batch, pair.image_features(batch)).logps
        found.append((logps, before, reference, gradients(logps.sum(), pair)))
    *wanted, wanted_gradients = found[0]
    *given, given_gradients = found[1]
    for what, one, other in zip(("policy", "policy before", "reference"), given, wanted, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-5, why="float32 products in another order", name=what)
    assert_same_gradients(given_gradients, wanted_gradients, rtol=1e-4, why="float32 products in another order")
    marks = {getattr(part, CPU_LAYOUT) for part in pair.modules() if isinstance(part, Linear4bit)}
    assert marks == {False}


def test_layers_without_the_choice_are_left_as_they_are() -> None:
    """Those that are not in 4 bits, and those of a bitsandbytes that has one layout."""
    layer, old = nn.Linear(2, 2), Linear4bit(64, 64)
    delattr(old, CPU_LAYOUT)
    keep_trainable(nn.Sequential(layer, old))
    assert not hasattr(layer, CPU_LAYOUT) and not hasattr(old, CPU_LAYOUT)


def test_only_the_decoder_is_held_in_4_bits(family: tuple[Backbone, Backbone, int]) -> None:
    backbone, four_bit, _ = family
    plain, quantised = backbone.build(dtype=torch.bfloat16), four_bit.build(dtype=torch.bfloat16)
    held = dict(quantised.named_parameters())
    for name, parameter in plain.named_parameters():
        if held[name].dtype == torch.uint8:
            assert held[name].numel() == (parameter.numel() + 1) // 2 and ".layers." in name, name
            assert not name.startswith((backbone.vision_prefix, backbone.projector_prefix)), name
        else:
            assert held[name].dtype == torch.bfloat16 and torch.equal(held[name], parameter), name
    assert quantised.get_output_embeddings().weight.dtype == torch.bfloat16
    for part in (part for part in quantised.modules() if isinstance(part, Linear4bit)):
        state = part.weight.quant_state
        assert state.quant_type == "nf4" and state.nested and part.compute_dtype == torch.bfloat16


def test_each_rank_quantises_on_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    passed = loading_arguments("4bit", torch.bfloat16, ["lm_head"])
    assert passed["device_map"] == {"": torch.device("cuda", 3)}
    assert passed["quantization_config"].llm_int8_skip_modules == ["lm_head"]


def test_without_quantization_nothing_is_passed() -> None:
    assert loading_arguments(None, torch.float32, ["lm_head"]) == {}


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("layout", ["stock", "original", "official"])
def test_what_is_no_number_is_refused_by_name_where_4_bits_would_hide_it(
    layout: str, value: float, write_original: Callable[..., Path], tmp_path: Path
) -> None:
    """In a layer that is held in 4 bits, of each layout that weights come in."""
    name = "tiny_ixc25" if layout == "official" else "tiny_llava"
    if layout == "original":
        folder = write_original("safetensors", shards=2)
    else:
        write_folder(name, folder := tmp_path / "model", width=96)
    layer = re.compile(r"(language_)?model\..*layers\.1\..*(q_proj|wqkv)\.weight")
    (file, tensor), *_ = [
        (file, one) for file in sorted(folder.glob("*.safetensors")) for one in load_file(file) if layer.fullmatch(one)
    ]
    state = load_file(file)
    state[tensor].view(-1)[:3] = value
    save_file(state, file, metadata={"format": "pt"})
    four_bit = FAMILIES[name][0](path=str(folder), quantization="4bit")
    with pytest.raises(ConfigError, match=rf"^{file}: {tensor} holds 3 of \d+ values that are NaN or infinite"):
        four_bit.build()


def test_adapters_go_from_one_base_to_the_other(family: tuple[Backbone, Backbone, int], tmp_path: Path) -> None:
    """Trained on 4 bits, answered with on the plain weights."""
    backbone, four_bit, _ = family
    tuned = make_pair(four_bit)
    tuned.policy.save_pretrained(tmp_path)
    loaded = with_adapter(backbone.build(), str(tmp_path))
    given = {name: value for name, value in loaded.state_dict().items() if ".lora_" in name}
    wanted = {name: value for name, value in tuned.policy.state_dict().items() if ".lora_" in name}
    assert given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)


def test_a_cache_of_the_plain_base_does_not_serve_one_in_4_bits(family: tuple[Backbone, Backbone, int]) -> None:
    backbone, four_bit, _ = family
    plain, other = (describe_components(one, one.build(), "none", "32-true") for one in (backbone, four_bit))
    assert plain["model weights"] != other["model weights"]


def test_unknown_kinds_are_refused_before_anything_is_read(family: tuple[Backbone, Backbone, int]) -> None:
    backbone = family[0]
    with pytest.raises(ConfigError, match="backbone.quantization='8bit' is unknown; valid: null, 4bit"):
        type(backbone)(path=backbone.path, quantization="8bit")


def test_says_what_is_missing_before_weights_load(
    family: tuple[Backbone, Backbone, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = importlib.util.find_spec
    monkeypatch.setattr(
        "lookright.backbones.quantization.importlib.util.find_spec",
        lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest),
    )
    backbone = family[0]
    four_bit = type(backbone)(path=backbone.path, quantization="4bit")
    four_bit.build(weights=False)  # as a dry run does
    with pytest.raises(ConfigError, match=r"pip install 'lookright\[qlora\]'.*backbone.quantization=null"):
        four_bit.build()


def test_full_tuning_refuses_weights_in_4_bits(family: tuple[Backbone, Backbone, int]) -> None:
    four_bit = family[1]
    with pytest.raises(ConfigError, match="tuning=full cannot train weights in 4bit; set tuning=lora"):
        FullTuning().apply(four_bit, four_bit.build(weights=False))


def test_double_quantization_costs_as_much_as_its_paper_says() -> None:
    # arXiv 2305.14314, section 3: 0.127 bits a parameter for the constants
    assert abs(BYTES_PER_WEIGHT * 8 - 4.127) < 1e-3


@pytest.mark.gpu
def test_a_step_on_cuda_trains_adapters_on_a_4_bit_base(family: tuple[Backbone, Backbone, int]) -> None:
    four_bit = family[1]
    model = four_bit.build(dtype=torch.bfloat16)
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(four_bit, model)
    pair = ModelPair(four_bit, policy, AdapterOff()).to("cuda").train()
    batch = move(make_batch(four_bit), torch.device("cuda"))
    features = pair.image_features(batch)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logps = pair.score(batch, features).logps
        # fresh adapters change nothing
        assert torch.equal(logps, pair.reference_logps(batch, features))
        found = gradients(logps.sum(), pair)
    trained = {name for name, gradient in found.items() if gradient is not None}
    assert trained and all(".lora_" in name for name in trained)
    held = {name: parameter.dtype for name, parameter in model.named_parameters() if ".lora_" not in name}
    assert any(dtype == torch.uint8 for dtype in held.values())
    assert all(dtype == torch.bfloat16 for name, dtype in held.items() if name.startswith(four_bit.vision_prefix))
