"""Batched decoding against one prompt at a time, and against transformers' own generation without cache."""

import copy
import hashlib

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Answer, Decoder, Sampling
from lookright.answering.prefill import prefill
from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.packing.question import DecoderInput
from lookright.tuning.lora import LoraTuning
from tests.answering.slow import confidence, slow_generate, slow_model, stacked
from tests.compare import assert_close
from tests.examples import lively_model, shake_adapters

ROUNDING = "float64 with float32 norms and rotary angles inside; padded rows sum in another order"


def tokens(answers: list[Answer]) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beams"])
def test_a_batch_equals_stock_generation_one_by_one(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput], num_beams: int
) -> None:
    together = Decoder(max_new_tokens=6, num_beams=num_beams).answer(llava, model, inputs)
    wanted = [slow_generate(slow, item, llava, max_new_tokens=6, num_beams=num_beams) for item in inputs]
    assert tokens(together) == wanted
    assert len({tuple(row) for row in wanted}) == len(wanted), "all prompts get the same answer: nothing is proven"


def test_a_batch_equals_one_by_one_in_text_and_confidence(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    decoder = Decoder(max_new_tokens=6)
    together = decoder.answer(llava, model, inputs)
    single = [decoder.answer(llava, model, [item])[0] for item in inputs]
    assert [(a.token_ids, a.text, a.factor, a.scaled_ratios) for a in together] == [
        (a.token_ids, a.text, 1.0, None) for a in single
    ]
    wanted = torch.tensor([confidence(slow, item) for item in inputs])
    for answers in (together, single):
        assert_close(torch.tensor([a.confidence for a in answers]), wanted, atol=1e-6, why=ROUNDING)


def test_beams_differ_from_greedy_here(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    greedy, beams = (Decoder(max_new_tokens=6, num_beams=n).answer(llava, model, inputs) for n in (1, 3))
    assert tokens(greedy) != tokens(beams)


def test_answers_that_end_early_are_cut_after_their_end_token(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """One row ends and the others go on: the end token stays, padding after it does not."""
    whole = tokens(Decoder(max_new_tokens=6).answer(llava, model, inputs))
    twin = copy.copy(llava)
    twin.end_token_ids = [whole[0][2]]
    cut = Decoder(max_new_tokens=6).answer(twin, model, inputs)
    stops = [row.index(whole[0][2]) + 1 if whole[0][2] in row else 6 for row in whole]
    assert stops[0] <= 3 and max(stops) > stops[0]
    assert tokens(cut) == [row[:stop] for row, stop in zip(whole, stops, strict=True)]
    assert cut[0].text == llava.decode(whole[0][: stops[0] - 1])


@torch.no_grad()
def test_left_padding_changes_no_logit(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """The other side too: stock rows without padding, and with padding on the right, say the same."""
    state = prefill(llava, model, inputs)
    for number, item in enumerate(inputs):
        ids = item.prompt.input_ids
        padded = torch.cat([ids, torch.full((7,), llava.pad_token_id)])
        plain, right = (slow(input_ids=row[None], pixel_values=stacked(slow, item)).logits[0] for row in (ids, padded))
        assert_close(state.logits[number], plain[-1], atol=1e-4, why=ROUNDING, name="against no padding")
        assert_close(state.logits[number], right[len(ids) - 1], atol=1e-4, why=ROUNDING, name="against right padding")


def test_prefill_lays_prompts_out_to_the_right(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    state = prefill(llava, model, inputs)
    for number, item in enumerate(inputs):
        length = len(item.prompt.input_ids)
        assert state.input_ids[number, -length:].tolist() == item.prompt.input_ids.tolist()
        assert state.attention_mask[number].sum() == length and state.attention_mask[number, -length:].all()
        assert torch.equal(state.image_mask[number], state.input_ids[number] == llava.config.image_token_id)
        assert torch.equal(state.coverage[number, -length:], item.coverage)
        assert not state.coverage[number, :-length].any()


def test_sampling_equals_stock_under_its_seed(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput], seeds: list[int]
) -> None:
    """One prompt a batch, so that stock draws the same numbers from the seed that was set."""
    decoder = Decoder(max_new_tokens=6, sampling=Sampling(temperature=1.7, top_p=0.9, seed=5))
    drawn = [decoder.answer(llava, model, [item])[0].token_ids for item in inputs[:2]]
    assert len(seeds) == len(set(seeds)) == 2
    wanted = []
    for seed, item in zip(list(seeds), inputs[:2], strict=True):
        torch.manual_seed(seed)
        options = {"do_sample": True, "temperature": 1.7, "top_p": 0.9, "top_k": 0}
        wanted.append(slow_generate(slow, item, llava, max_new_tokens=6, **options))
    assert drawn == wanted
    assert drawn != tokens(Decoder(max_new_tokens=6).answer(llava, model, inputs[:2])), "greedy: nothing was drawn"


def test_sampling_is_repeatable_and_leaves_the_generator_alone(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    """And a batch draws the same whatever was answered before it, so that a resumed run goes on alike."""

    def draw(seed: int) -> list[list[int]]:
        decoder = Decoder(max_new_tokens=6, sampling=Sampling(temperature=2.0, seed=seed))
        first = decoder.answer(llava, model, inputs[:2])
        second = decoder.answer(llava, model, inputs[2:])
        assert tokens(decoder.answer(llava, model, inputs[:2])) == tokens(first)
        return tokens(first) + tokens(second)

    before = torch.random.get_rng_state()
    first = draw(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert draw(1) == first and draw(2) != first


def test_several_answers_equal_stock_rows_under_their_seed(
    llava: LlavaBackbone, model: PreTrainedModel, slow: PreTrainedModel, inputs: list[DecoderInput], seeds: list[int]
) -> None:
    """Stock generation of as many rows of the same prompt, without cache, from the seed that was set."""
    decoder = Decoder(max_new_tokens=6, sampling=Sampling(temperature=1.7, top_p=0.9, seed=5))
    drawn = tokens(decoder.several(llava, model, inputs[0], 3, "a"))
    digest = hashlib.blake2b(b"5/a", digest_size=7).digest()
    assert seeds == [int.from_bytes(digest, "big")]
    torch.manual_seed(seeds[0])
    rows = slow.generate(
        input_ids=inputs[0].prompt.input_ids.expand(3, -1),
        pixel_values=stacked(slow, inputs[0]).repeat(3, 1, 1, 1),
        generation_config=GenerationConfig(
            max_new_tokens=6, do_sample=True, temperature=1.7, top_p=0.9, top_k=0, use_cache=False,
            pad_token_id=llava.pad_token_id, eos_token_id=llava.end_token_ids,
        ),
    )[:, len(inputs[0].prompt.input_ids) :].tolist()  # fmt: skip
    ends = [next((n + 1 for n, token in enumerate(row) if token in llava.end_token_ids), len(row)) for row in rows]
    assert drawn == [row[:end] for row, end in zip(rows, ends, strict=True)]
    assert len({tuple(row) for row in drawn}) == 3


def test_several_answers_depend_on_seed_and_key(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    def draw(seed: int, key: str) -> list[list[int]]:
        decoder = Decoder(max_new_tokens=6, sampling=Sampling(temperature=2.0, seed=seed))
        return tokens(decoder.several(llava, model, inputs[1], 4, key))

    before = torch.random.get_rng_state()
    first = draw(1, "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert draw(1, "a") == first
    assert draw(2, "a") != first and draw(1, "b") != first


def test_several_adaptive_answers_share_their_prompts_factor(
    llava: LlavaBackbone, model: PreTrainedModel, inputs: list[DecoderInput]
) -> None:
    decoder = AdaptiveDecoder(max_new_tokens=3, sampling=Sampling(temperature=2.0))
    (alone,) = decoder.answer(llava, model, inputs[:1])
    found = decoder.several(llava, model, inputs[0], 3, "a")
    assert [(one.factor, one.confidence) for one in found] == [(alone.factor, alone.confidence)] * 3
    assert alone.factor != 1 and len({tuple(one.token_ids) for one in found}) > 1


def test_with_an_adapter(llava: LlavaBackbone, inputs: list[DecoderInput]) -> None:
    """A policy in training mode with dropout answers as the stock model with merged weights does."""
    policy = shake_adapters(LoraTuning(r=4, alpha=8, dropout=0.5).apply(llava, lively_model(llava))).train()
    plain = tokens(Decoder(max_new_tokens=5).answer(llava, lively_model(llava), inputs))
    adapted = tokens(Decoder(max_new_tokens=5).answer(llava, policy, inputs))
    assert not policy.training
    merged = slow_model(llava, policy.merge_and_unload())
    assert adapted == [slow_generate(merged, item, llava, max_new_tokens=5) for item in inputs]
    assert adapted != plain


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Decoder(max_new_tokens=0), "decode.max_new_tokens=0"),
        (lambda: Decoder(num_beams=0), "decode.num_beams=0"),
        (lambda: Sampling(temperature=0.0), "temperature=0.0"),
        (lambda: Sampling(top_p=0.0), "top_p=0.0"),
        (lambda: Sampling(top_p=1.5), "top_p=1.5"),
    ],
)
def test_refused_settings(make: "callable", words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
