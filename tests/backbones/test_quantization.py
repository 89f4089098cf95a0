"""The 4-bit base: what is passed on, what stays as it is, and what is refused where."""

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.quantization import BYTES_PER_WEIGHT, loading_arguments
from lookright.errors import ConfigError
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import make_example


@pytest.fixture()
def four_bit(llava_folder: Any) -> LlavaBackbone:
    return LlavaBackbone(path=str(llava_folder), quantization="4bit")


def pretend(monkeypatch: pytest.MonkeyPatch, *, library: bool, cuda: bool) -> None:
    """As if this machine had, or had not, bitsandbytes and a CUDA device."""
    real: Callable = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return (SimpleNamespace() if library else None) if name == "bitsandbytes" else real(name, *rest)

    monkeypatch.setattr("lookright.backbones.quantization.importlib.util.find_spec", find_spec)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


def test_unknown_kinds_are_refused_before_anything_is_read(llava_folder: Any) -> None:
    with pytest.raises(ConfigError, match="backbone.quantization='8bit' is unknown; valid: null, 4bit"):
        LlavaBackbone(path=str(llava_folder), quantization="8bit")


@pytest.mark.parametrize(
    ("library", "cuda", "words"),
    [(False, True, r"pip install 'lookright\[qlora\]'"), (True, False, "needs a CUDA device")],
)
def test_says_what_is_missing(
    four_bit: LlavaBackbone, monkeypatch: pytest.MonkeyPatch, library: bool, cuda: bool, words: str
) -> None:
    pretend(monkeypatch, library=library, cuda=cuda)
    with pytest.raises(ConfigError, match=f"{words}.*backbone.quantization=null"):
        four_bit.build()


def test_weights_load_as_nf4_around_an_untouched_tower(
    four_bit: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, library=True, cuda=True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    passed: dict[str, Any] = {}
    model = four_bit.build(weights=False)
    monkeypatch.setattr(
        LlavaForConditionalGeneration, "from_pretrained", lambda path, **options: passed.update(options) or model
    )
    four_bit.build(dtype=torch.bfloat16)
    config = passed["quantization_config"]
    assert passed["dtype"] == torch.bfloat16 and passed["device_map"] == {"": 3}
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    kept = config.llm_int8_skip_modules
    assert kept == ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    for name in kept:
        assert model.get_submodule(name) is not None


def test_without_quantization_nothing_is_passed() -> None:
    assert loading_arguments(None, torch.float32, ["lm_head"]) == {}


def test_full_tuning_refuses_weights_in_4_bits(four_bit: LlavaBackbone) -> None:
    with pytest.raises(ConfigError, match="tuning=full cannot train weights in 4bit; set tuning=lora"):
        FullTuning().apply(four_bit, four_bit.build(weights=False))


def test_double_quantization_costs_as_much_as_its_paper_says() -> None:
    # arXiv 2305.14314, section 3: 0.127 bits a parameter for the constants
    assert abs(BYTES_PER_WEIGHT * 8 - 4.127) < 1e-3


@pytest.mark.gpu
def test_a_step_trains_adapters_on_a_4_bit_base(llava: LlavaBackbone, tmp_path: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from lookright.packed.batch import move, pack

    llava.save_pretrained(llava.build(weights=False, dtype=torch.bfloat16), tmp_path)
    backbone = LlavaBackbone(path=str(tmp_path), quantization="4bit")
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(backbone, backbone.build(dtype=torch.bfloat16))
    pair = ModelPair(backbone, policy, AdapterOff()).to("cuda").train()
    batch = move(pack([make_example(backbone, 2, ["red", "blue circle"])]), torch.device("cuda"))
    features = pair.image_features(batch)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logps = pair.score(batch, features).logps
        # fresh adapters change nothing
        assert torch.equal(logps, pair.reference_logps(batch, features))
    logps.sum().backward()
    trained = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    assert pair.model.model.language_model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    assert all(p.dtype == torch.bfloat16 for p in pair.model.model.vision_tower.parameters())
