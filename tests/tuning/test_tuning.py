from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import with_adapter
from lookright.errors import ConfigError
from lookright.packing.batch import pack
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import lively_model, make_example, make_input, shake_adapters, trained_parameters


def test_lora_adapts_every_linear_layer_of_the_language_model_and_no_other(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=3, alpha=6).apply(llava, llava.build(weights=False))
    adapted = {name for name, module in policy.get_base_model().named_modules() if hasattr(module, "lora_A")}
    linear = {name for name, module in llava.build(weights=False).named_modules() if isinstance(module, nn.Linear)}
    assert adapted == {name for name in linear if "language_model.layers." in name} and len(adapted) == 7 * 6
    assert all(".lora_" in name for name in trained_parameters(policy))
    assert {parameter.shape[0] for name, parameter in policy.named_parameters() if "lora_A" in name} == {3}


def test_scale_and_dropout_reach_the_adapters(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=4, alpha=6, dropout=0.25).apply(llava, llava.build(weights=False))
    layer = llava.language_model(policy.get_base_model()).layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 1.5 and layer.lora_dropout["default"].p == 0.25


def test_own_targets(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4, targets=r".*language_model.*\.q_proj").apply(llava, llava.build(weights=False))
    assert len(trained_parameters(policy)) == 2 * 6


def test_training_goes_on_from_a_saved_adapter(llava: LlavaBackbone, tmp_path: Path) -> None:
    policy = shake_adapters(LoraTuning(r=2, alpha=4).apply(llava, lively_model(llava, torch.float32)))
    policy.save_pretrained(tmp_path / "adapter")
    again = LoraTuning(adapter=str(tmp_path / "adapter")).apply(llava, lively_model(llava, torch.float32))
    trained = trained_parameters(again)
    assert trained.keys() == trained_parameters(policy).keys()
    assert all(torch.equal(value, dict(policy.named_parameters())[name]) for name, value in trained.items())


def test_a_saved_adapter_holds_adapters_alone(llava: LlavaBackbone, tmp_path: Path) -> None:
    LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False)).save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 100_000


def with_projector(llava: LlavaBackbone, folder: Path) -> nn.Module:
    """A saved policy whose adapters and projector have moved."""
    tuning = LoraTuning(r=2, alpha=4, train_projector=True)
    policy = shake_adapters(tuning.apply(llava, lively_model(llava, torch.float32)))
    for name, parameter in trained_parameters(policy).items():
        if ".lora_" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    policy.save_pretrained(folder)
    return policy.eval()


@torch.no_grad()
def test_a_trained_projector_is_saved_with_its_adapter(llava: LlavaBackbone, tmp_path: Path) -> None:
    """What another process loads answers as what was trained, and as the base where the adapter is off."""
    policy = with_projector(llava, tmp_path)
    again = with_adapter(lively_model(llava, torch.float32), str(tmp_path)).eval()
    base = lively_model(llava, torch.float32)
    pixels = make_input(llava, 2).pixels
    found = llava.encode_images(again.get_base_model(), pixels)
    assert torch.equal(found[1], llava.encode_images(policy.get_base_model(), pixels)[1])
    wanted = llava.encode_images(base, pixels)
    assert not torch.equal(found[1], wanted[1])
    with again.disable_adapter():
        assert torch.equal(llava.encode_images(again.get_base_model(), pixels)[1], wanted[1])


def test_the_reference_has_the_projector_of_the_base(llava: LlavaBackbone, tmp_path: Path) -> None:
    with_projector(llava, tmp_path)
    batch = pack([make_example(llava, 2, ["red", "no"])])
    base = ModelPair(llava, lively_model(llava, torch.float32), None)
    wanted = base.score(batch, base.image_features(batch)).logps
    policy = LoraTuning(adapter=str(tmp_path)).apply(llava, lively_model(llava, torch.float32))
    pair = ModelPair(llava, policy, AdapterOff())
    for _ in range(2):
        found = pair.reference_logps(batch, pair.image_features(batch))
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-6)
        assert all(".lora_" in name for name in trained_parameters(policy)), "the projector stays as it was saved"


def test_a_projector_that_an_adapter_lacks_does_not_train_in_silence(llava: LlavaBackbone, tmp_path: Path) -> None:
    LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"tuning.train_projector=true, and tuning.adapter=.* without the projector"):
        LoraTuning(adapter=str(tmp_path), train_projector=True).apply(llava, llava.build(weights=False))


@pytest.mark.parametrize("options", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_refused_numbers(options: dict) -> None:
    with pytest.raises(ConfigError, match="need r >= 1, alpha > 0, dropout in"):
        LoraTuning(**options)


def test_a_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tuning.adapter=.* holds no adapter_config.json"):
        LoraTuning(adapter=str(tmp_path))


@pytest.mark.parametrize(
    "saved",
    [
        {"target_modules": ["w1"], "r": 2},  # names of another architecture
        {"target_modules": ["q_proj"], "r": 2},  # no weights of this shape
    ],
)
def test_an_adapter_of_another_model_is_refused(saved: dict, llava: LlavaBackbone, tmp_path: Path) -> None:
    LoraConfig(base_model_name_or_path="/models/other", **saved).save_pretrained(tmp_path)
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 5)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"tuning.adapter=.* does not fit .* trained on '/models/other'"):
        LoraTuning(adapter=str(tmp_path)).apply(llava, llava.build(weights=False))


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("projector", [False, True])
def test_full_tuning_marks_what_trains(llava: LlavaBackbone, projector: bool, vision: bool) -> None:
    model = FullTuning(train_projector=projector, train_vision=vision).apply(llava, llava.build(weights=False))
    for name, parameter in model.named_parameters():
        if name.startswith(llava.vision_prefix):
            assert parameter.requires_grad == vision, name
        elif name.startswith(llava.projector_prefix):
            assert parameter.requires_grad == projector, name
        else:
            assert parameter.requires_grad, name
