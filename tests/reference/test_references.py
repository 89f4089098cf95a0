"""The two references against the base model itself, and what they refuse."""

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import bare_model
from lookright.errors import ConfigError
from lookright.packing.batch import pack
from lookright.packing.forward import packed_forward
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.reference.frozen_copy import FrozenCopy
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import LONG, lively_model, make_example, shake_adapters, trained_parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adapter_off_equals_the_base_model_exactly(llava: LlavaBackbone, dtype: torch.dtype) -> None:
    batch = pack([make_example(llava, 3, ["red", LONG]), make_example(llava, 1, ["no", "yes"])])
    base = lively_model(llava, dtype)
    with torch.no_grad():
        wanted = packed_forward(llava, base, batch, llava.encode_images(base, batch.pixels)).logps
    policy = LoraTuning(r=4, alpha=8, dropout=0.5).apply(llava, lively_model(llava, dtype))
    pair = ModelPair(llava, shake_adapters(policy), AdapterOff()).train()
    trained = trained_parameters(pair).keys()
    features = pair.image_features(batch)
    found = pair.reference_logps(batch, features)
    assert torch.equal(found, wanted), f"largest difference {(found - wanted).abs().max():.3e}"
    assert not found.requires_grad
    # the adapters are back afterwards, and train as before
    assert trained_parameters(pair).keys() == trained
    after = pair.score(batch, features).logps
    assert (after - wanted).abs().max() > 0.1 and after.requires_grad


def test_adapters_keep_the_gradient_of_a_pass_before_the_reference(llava: LlavaBackbone) -> None:
    """Switching adapters off and on between forward and backward loses nothing."""
    batch = pack([make_example(llava, 2, ["red", "no"])])
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(llava, lively_model(llava))
    pair = ModelPair(llava, shake_adapters(policy), AdapterOff()).train()
    features = pair.image_features(batch)
    found = []
    for with_reference in (False, True):
        logps = pair.score(batch, features).logps
        if with_reference:
            pair.reference_logps(batch, features)
        pair.zero_grad()
        logps.sum().backward()
        found.append([parameter.grad.clone() for parameter in trained_parameters(pair).values()])
    assert all(torch.equal(one, other) and one.any() for one, other in zip(*found, strict=True))


def test_adapter_off_refuses_what_it_cannot_undo(llava: LlavaBackbone) -> None:
    model = FullTuning().apply(llava, llava.build(weights=False))
    with pytest.raises(ConfigError, match="tuning=lora, or reference=frozen_copy"):
        ModelPair(llava, model, AdapterOff())
    policy = LoraTuning(r=2, alpha=4, train_projector=True).apply(llava, llava.build(weights=False))
    with pytest.raises(ConfigError, match="tuning.train_projector=false, or reference=frozen_copy"):
        ModelPair(llava, policy, AdapterOff())


def test_a_frozen_copy_shares_nothing_with_the_policy(llava: LlavaBackbone) -> None:
    """Not one tensor: also the trimmed last layer of the copy works on the copy's own weights."""
    batch = pack([make_example(llava, 2, ["red", LONG])])
    policy = FullTuning(train_projector=True, train_vision=True).apply(llava, lively_model(llava))
    pair = ModelPair(llava, policy, FrozenCopy())
    wanted = pair.reference_logps(batch, [])
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(1.0)
    assert torch.equal(pair.reference_logps(batch, []), wanted)
    copied = pair.reference._copy[0]
    assert not any(parameter.requires_grad for parameter in copied.parameters()) and not copied.training
    shared = {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in pair.parameters()}
    assert not shared


def test_pictures_carry_a_graph_only_where_it_is_wanted(llava: LlavaBackbone) -> None:
    batch = pack([make_example(llava, 2, ["red", "no"])])
    frozen = ModelPair(llava, LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False)), None)
    tuned = ModelPair(llava, FullTuning(train_projector=True).apply(llava, llava.build(weights=False)), None)
    assert not any(feature.requires_grad for feature in frozen.image_features(batch))
    assert all(feature.requires_grad for feature in tuned.image_features(batch))
    with torch.no_grad():
        assert not any(feature.requires_grad for feature in tuned.image_features(batch))


def test_frozen_parts_evaluate_while_the_policy_trains(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False))
    pair = ModelPair(llava, policy, None)
    for mode in (True, False):
        pair.train(mode)
        for name, module in pair.policy.named_modules():
            trains = isinstance(module, GradientCheckpointingLayer) or name.endswith("lora_dropout.default")
            assert module.training == (mode and trains), name
        assert pair.training == mode


def test_bare_model_looks_under_the_adapters(llava: LlavaBackbone) -> None:
    model = llava.build(weights=False)
    assert bare_model(model) is model
    assert bare_model(LoraTuning(r=2, alpha=4).apply(llava, model)) is model
