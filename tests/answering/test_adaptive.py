"""Adaptive decoding against two generations without cache, token for token."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Answer, Decoder, Sampling
from lookright.answering.prefill import prefill
from lookright.attention import even_ratio
from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.packing.question import DecoderInput
from lookright.tuning.lora import LoraTuning
from lookright.types import Prompt, Region
from tests.answering.slow import Scaled, confidence, scaled, slow_generate, slow_model
from tests.compare import assert_close
from tests.examples import lively_model, shake_adapters

ROUNDING = "scaled logits are taken in float32"
NUM_TOKENS = 5
REGION = Region(picture=0, box=(0, 0, 9, 9), source="a")


def two_generations(
    llava: LlavaBackbone, slow: PreTrainedModel, item: DecoderInput, options: dict[str, Any], **generate: Any
) -> Answer:
    """The definition: a plain pass for the confidence, then a generation with scaled logits."""
    sure = confidence(slow, item)
    factor = options["alpha_low"] if sure < options.get("threshold", 0.5) else options["alpha_high"]
    image = item.prompt.input_ids == llava.config.image_token_id
    scope = item.coverage[:, 0] if options.get("scope") == "target" else image.double()
    layers = options.get("layers")
    state = Scaled(
        factors=1 + (factor - 1) * scope.double(),
        layers=None if layers is None else set(layers),
        every=options.get("steps") == "every",
    )
    with scaled(state):
        ids = slow_generate(slow, item, llava, max_new_tokens=NUM_TOKENS, **generate)
    masses = [state.maps[layer] @ item.coverage.to(state.maps[layer].dtype) for layer in range(llava.num_layers)]
    ratios = [float(on_target / on_sources) for on_target, on_sources in masses]
    return Answer(text=llava.decode(ids), token_ids=ids, confidence=sure, factor=factor, scaled_ratios=ratios)


def assert_same(found: list[Answer], wanted: list[Answer]) -> None:
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in wanted]
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    for name in ("confidence", "factor", "scaled_ratios"):
        values, expected = (torch.tensor([getattr(answer, name) for answer in side]) for side in (found, wanted))
        assert_close(values, expected, atol=1e-5, why=ROUNDING, name=name)


CASES = {
    "smooth": {"alpha_low": 0.2, "alpha_high": 0.2},
    "sharpen": {"alpha_low": 3.0, "alpha_high": 3.0},
    "target": {"alpha_low": 4.0, "alpha_high": 4.0, "scope": "target"},
    "some_layers": {"alpha_low": 3.0, "alpha_high": 3.0, "layers": [1, 2, 4]},
    "every_step": {"alpha_low": 3.0, "alpha_high": 3.0, "steps": "every"},
    "target_every_step_some_layers": {
        "alpha_low": 0.0,
        "alpha_high": 0.0,
        "scope": "target",
        "steps": "every",
        "layers": [0, 3],
    },
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_batch_equals_two_generations(
    llava: LlavaBackbone,
    model: PreTrainedModel,
    slow: PreTrainedModel,
    inputs: list[DecoderInput],
    options: dict[str, Any],
) -> None:
    found = AdaptiveDecoder(max_new_tokens=NUM_TOKENS, **options).answer(llava, model, inputs)
    assert_same(found, [two_generations(llava, slow, item, options) for item in inputs])
    plain = Decoder(max_new_tokens=NUM_TOKENS).answer(llava, model, inputs)
    assert [a.token_ids for a in found] != [a.token_ids for a in plain], "scaling changes no answer: nothing is proven"


def test_scaling_every_step_differs_from_the_first_alone(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    first, every = (
        AdaptiveDecoder(max_new_tokens=8, alpha_low=3.0, alpha_high=3.0, steps=steps).answer(llava, model, inputs)
        for steps in ("first", "every")
    )
    assert [a.token_ids for a in first] != [a.token_ids for a in every]
    assert [a.token_ids[0] for a in first] == [a.token_ids[0] for a in every]


@pytest.mark.parametrize("steps", ["first", "every"])
def test_beams_equal_two_generations(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput], steps: str
) -> None:
    options = {"alpha_low": 2.5, "alpha_high": 0.3, "steps": steps}
    found = AdaptiveDecoder(max_new_tokens=NUM_TOKENS, num_beams=3, **options).answer(llava, model, inputs)
    assert_same(found, [two_generations(llava, slow, item, options, num_beams=3) for item in inputs])


def test_sampling_equals_two_generations(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput], seeds: list[int]
) -> None:
    options = {"alpha_low": 2.5, "alpha_high": 0.3}
    decoder = AdaptiveDecoder(max_new_tokens=NUM_TOKENS, sampling=Sampling(temperature=1.5, seed=3), **options)
    (found,) = decoder.answer(llava, model, inputs[:1])
    torch.manual_seed(seeds[-1])
    drawing = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 0}
    assert_same([found], [two_generations(llava, slow, inputs[0], options, **drawing)])


def test_the_confidence_chooses_each_prompts_factor(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """A threshold between the confidences of the batch: both factors are in use side by side."""
    sure = sorted(confidence(slow, item) for item in inputs)
    options = {"alpha_low": 0.3, "alpha_high": 2.5, "threshold": (sure[1] + sure[2]) / 2}
    found = AdaptiveDecoder(max_new_tokens=NUM_TOKENS, **options).answer(llava, model, inputs)
    assert sorted(answer.factor for answer in found) == pytest.approx([0.3, 0.3, 2.5, 2.5])
    assert all((answer.confidence < options["threshold"]) == (answer.factor < 1) for answer in found)
    assert_same(found, [two_generations(llava, slow, item, options) for item in inputs])


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("steps", ["first", "every"])
def test_a_factor_of_one_is_plain_decoding(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput], steps: str, num_beams: int
) -> None:
    plain = Decoder(max_new_tokens=NUM_TOKENS, num_beams=num_beams).answer(llava, model, inputs)
    decoder = AdaptiveDecoder(NUM_TOKENS, num_beams, alpha_low=1.0, alpha_high=1.0, steps=steps)
    found = decoder.answer(llava, model, inputs)
    assert [(a.token_ids, a.confidence) for a in found] == [(a.token_ids, a.confidence) for a in plain]
    assert all(answer.factor == 1.0 for answer in found)


def test_sharpening_the_target_raises_the_reported_ratio(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """The ratio is that of the scaled row: a factor of 0 on all pictures leaves the target its share of tokens."""

    def ratios(factor: float, scope: str, layers: list[int] | None = None) -> Tensor:
        decoder = AdaptiveDecoder(1, alpha_low=factor, alpha_high=factor, scope=scope, layers=layers)
        return torch.tensor([answer.scaled_ratios[half] for answer in decoder.answer(llava, model, inputs)])

    half = llava.num_layers // 2
    covered = [float(even_ratio(item.coverage)) for item in inputs]
    assert_close(ratios(0.0, "all"), torch.tensor(covered), atol=1e-5, why="equal logits on all picture tokens")
    assert (ratios(0.0, "all", [half - 1]) - ratios(0.0, "all")).abs().max() > 0.01


@pytest.mark.parametrize("scope", ["all", "target"])
def test_with_an_adapter(llava: LlavaBackbone, inputs: list[DecoderInput], scope: str) -> None:
    policy = shake_adapters(LoraTuning(r=4, alpha=8, dropout=0.5).apply(llava, lively_model(llava)))
    options = {"alpha_low": 3.0, "alpha_high": 0.3, "scope": scope}
    found = AdaptiveDecoder(max_new_tokens=NUM_TOKENS, **options).answer(llava, policy, inputs)
    merged = slow_model(llava, policy.merge_and_unload())
    assert_same(found, [two_generations(llava, merged, item, options) for item in inputs])


def test_without_geometry_there_is_no_ratio_and_no_target_scope(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    unknown = copy.copy(inputs[0])
    unknown.coverage = None
    found = AdaptiveDecoder(2).answer(llava, model, [unknown, inputs[1]])
    assert found[0].scaled_ratios is None and len(found[1].scaled_ratios) == llava.num_layers
    with pytest.raises(ConfigError, match="set decode.scope=all"):
        AdaptiveDecoder(2, scope="target").answer(llava, model, [unknown, inputs[1]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "both"}, "decode.scope='both'"),
        ({"steps": "last"}, "decode.steps='last'"),
        ({"threshold": 1.5}, "decode.threshold=1.5"),
        ({"alpha_low": -0.1}, "decode.alpha_low=-0.1"),
        ({"alpha_high": -2.0}, "decode.alpha_high=-2.0"),
        ({"alpha_high": float("nan")}, "decode.alpha_high=nan"),
        ({"alpha_low": float("inf")}, "decode.alpha_low=inf"),
    ],
)
def test_refused_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptiveDecoder(**options)


def test_layers_are_checked_against_the_model(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    with pytest.raises(ConfigError, match="decode.layers=.*6 is not a layer"):
        AdaptiveDecoder(1, layers=[6]).answer(llava, model, inputs[:1])


def test_layers_and_targets_are_checked_before_weights_load(llava: LlavaBackbone) -> None:
    known = Prompt(
        id="q1",
        images=["a.png"],
        prompt="<image>\nred?",
        ground_truth="red",
        format="sequence",
        target=0,
        regions=[REGION],
    )
    with pytest.raises(ConfigError, match="decode.layers=.*6 is not a layer"):
        AdaptiveDecoder(1, layers=[6]).check(llava)
    AdaptiveDecoder(1, layers=[0.44, 0.7], scope="target").check(llava, [known])
    for unknown in (replace(known, id="q2", target=None), replace(known, id="q2", regions=None)):
        AdaptiveDecoder(1).check(llava, [known, unknown])
        with pytest.raises(ConfigError, match="decode.scope=target: record q2 .*set decode.scope=all"):
            AdaptiveDecoder(1, scope="target").check(llava, [known, unknown])


def test_several_decoders_answer_from_one_pass(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """Whatever came before, every decoder answers as it does from a pass of its own."""
    decoders = [
        AdaptiveDecoder(NUM_TOKENS, alpha_low=3.0, alpha_high=3.0, steps="every"),
        Decoder(NUM_TOKENS),
        AdaptiveDecoder(8, alpha_low=0.2, alpha_high=0.2, layers=[1, 2]),
        AdaptiveDecoder(NUM_TOKENS, alpha_low=3.0, alpha_high=3.0, steps="every"),
    ]
    state = prefill(llava, model, inputs)
    for decoder in decoders:
        assert decoder.answer_from(llava, model, state) == decoder.answer(llava, model, inputs)
