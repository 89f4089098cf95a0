"""transformers' generate on prompts with pictures: cached, uncached, batched, beams, continued from a cache."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.backbones.base import CACHE
from lookright.backbones.ixc25 import Ixc25ForCausalLM

GREEDY = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 2}


def prompt(model: Ixc25ForCausalLM, pictures: list[Tensor]) -> Tensor:
    """Text, picture, text, picture ... text: int64[L]."""
    with torch.no_grad():
        counts = [len(rows) for rows in model.encode_pictures(pictures)]
    ids = [1, 7]
    for number, count in enumerate(counts):
        ids += [0] * count + [10 + number, 20]
    return torch.tensor([*ids, 33])


@pytest.fixture()
def decoder(make_model: Callable) -> Ixc25ForCausalLM:
    return make_model(seed=5)


def test_cached_equals_uncached(decoder: Ixc25ForCausalLM, pixels: Callable) -> None:
    pictures = [pixels(1, 2), pixels(2, 1, seed=1)]
    ids = prompt(decoder, pictures)[None]
    cached, uncached = (
        decoder.generate(
            input_ids=ids, pixels=pictures, use_cache=use, output_logits=True, return_dict_in_generate=True, **GREEDY
        )
        for use in (True, False)
    )
    assert torch.equal(cached.sequences, uncached.sequences)
    # float32; the same keys in a pass of one row
    assert max((a - b).abs().max() for a, b in zip(cached.logits, uncached.logits, strict=True)) < 1e-4
    teacher = decoder(input_ids=cached.sequences, pixels=pictures, im_mask=_padded(ids == 0, 12)).logits
    assert torch.equal(teacher[0, ids.shape[1] - 1 : -1].argmax(-1), cached.sequences[0, ids.shape[1] :])


def _padded(mask: Tensor, extra: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, extra))


def test_a_decoded_picture_token_is_text(decoder: Ixc25ForCausalLM, pixels: Callable) -> None:
    """The model may emit the id that stands for picture rows; it is a word then, cached or not."""
    pictures = [pixels(1, 1)]
    ids = prompt(decoder, pictures)[None]
    force = {"logits_processor": [lambda ids, scores: _only(scores, 0)]}
    outputs = [
        decoder.generate(
            input_ids=ids,
            pixels=pictures,
            use_cache=use,
            output_logits=True,
            return_dict_in_generate=True,
            **force | GREEDY,
        )
        for use in (True, False)
    ]
    assert outputs[0].sequences[0, -12:].eq(0).all()
    assert max((a - b).abs().max() for a, b in zip(outputs[0].logits, outputs[1].logits, strict=True)) < 1e-4


def _only(scores: Tensor, token: int) -> Tensor:
    keep = torch.full_like(scores, -1e9)
    keep[:, token] = 0
    return keep


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_with_different_numbers_of_pictures_equals_one_by_one(
    decoder: Ixc25ForCausalLM, pixels: Callable, num_beams: int
) -> None:
    per_prompt = [[pixels(1, 1)], [], [pixels(1, 2, seed=1), pixels(2, 2, seed=2), pixels(1, 1, seed=3)]]
    prompts = [prompt(decoder, pictures) for pictures in per_prompt]
    longest = max(len(ids) for ids in prompts)
    batch = torch.full((3, longest), 2)
    attention_mask = torch.zeros(3, longest, dtype=torch.long)
    for row, ids in enumerate(prompts):
        batch[row, longest - len(ids) :] = ids
        attention_mask[row, longest - len(ids) :] = 1
    together = decoder.generate(
        input_ids=batch,
        attention_mask=attention_mask,
        pixels=[picture for pictures in per_prompt for picture in pictures],
        num_beams=num_beams,
        **GREEDY,
    )
    for row, (ids, pictures) in enumerate(zip(prompts, per_prompt, strict=True)):
        alone = decoder.generate(
            input_ids=ids[None], attention_mask=torch.ones(1, len(ids)), pixels=pictures, num_beams=num_beams, **GREEDY
        )
        assert torch.equal(together[row, longest:], alone[0, len(ids) :]), f"prompt {row}"


def test_generation_goes_on_from_a_cache_without_its_last_token(decoder: Ixc25ForCausalLM, pixels: Callable) -> None:
    pictures = [pixels(2, 2), pixels(1, 1, seed=1)]
    ids = prompt(decoder, pictures)[None]
    expected = decoder.generate(input_ids=ids, pixels=pictures, **GREEDY)
    with torch.no_grad():
        im_mask = ids == 0
        text = decoder.get_input_embeddings()(ids)
        embeds = torch.where(im_mask[..., None], decoder.place_pictures(pictures, im_mask), text)
        prefill = decoder.model(inputs_embeds=embeds, im_mask=im_mask, use_cache=True)
        cache = prefill[CACHE]
        cache.crop(-1)
    continued = decoder.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: cache}, **GREEDY)
    assert torch.equal(continued, expected)


def test_generation_goes_on_from_a_cache_in_the_middle_of_a_picture(
    decoder: Ixc25ForCausalLM, pixels: Callable
) -> None:
    pictures = [pixels(1, 1), pixels(1, 2, seed=1)]
    ids = prompt(decoder, pictures)[None]
    expected = decoder.generate(input_ids=ids, pixels=pictures, **GREEDY)
    with torch.no_grad():
        cache = decoder(input_ids=ids, pixels=pictures, use_cache=True)[CACHE]
    cache.crop(int((ids == 0).nonzero()[-1, 1]) - 4 - ids.shape[1])
    continued = decoder.generate(input_ids=ids, pixels=pictures, **{CACHE: cache}, **GREEDY)
    assert torch.equal(continued, expected)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@torch.no_grad()
def test_a_pass_reads_the_cache_under_both_names(decoder: Ixc25ForCausalLM, pixels: Callable, name: str) -> None:
    """transformers 5.24 renamed it; a name that is not understood would be dropped without a word."""
    pictures = [pixels(1, 2)]
    ids = prompt(decoder, pictures)[None]
    expected = decoder(input_ids=ids, pixels=pictures).logits[:, -1:]
    for step in (decoder, decoder.model):
        kept = decoder(input_ids=ids[:, :-1], pixels=pictures, use_cache=True)[CACHE]
        output = step(input_ids=ids[:, -1:], **{name: kept})
        logits = output.logits if step is decoder else decoder.output(output.last_hidden_state)
        assert (logits - expected).abs().max() < 1e-4
        assert output[CACHE] is kept
        assert kept.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("chunk", [7, 40])
def test_a_prompt_may_be_read_in_chunks(decoder: Ixc25ForCausalLM, pixels: Callable, chunk: int) -> None:
    pictures = [pixels(1, 2), pixels(2, 1, seed=1)]
    ids = prompt(decoder, pictures)[None]
    whole, chunked = (
        decoder.generate(input_ids=ids, pixels=pictures, prefill_chunk_size=size, **GREEDY) for size in (None, chunk)
    )
    assert torch.equal(chunked, whole)


def test_embeddings_alone_generate_the_same(decoder: Ixc25ForCausalLM, pixels: Callable) -> None:
    pictures = [pixels(1, 2)]
    ids = prompt(decoder, pictures)[None]
    expected = decoder.generate(input_ids=ids, pixels=pictures, **GREEDY)[:, ids.shape[1] :]
    with torch.no_grad():
        text = decoder.get_input_embeddings()(ids)
        embeds = torch.where((ids == 0)[..., None], decoder.place_pictures(pictures, ids == 0), text)
    assert torch.equal(decoder.generate(inputs_embeds=embeds, im_mask=ids == 0, **GREEDY), expected)


def test_pictures_are_encoded_once(
    decoder: Ixc25ForCausalLM, pixels: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = decoder.encode_pictures
    monkeypatch.setattr(decoder, "encode_pictures", lambda pictures: calls.append(len(pictures)) or encode(pictures))
    pictures = [pixels(1, 1), pixels(1, 1, seed=1)]
    ids = prompt(decoder, pictures)[None]
    calls.clear()
    decoder.generate(input_ids=ids, pixels=pictures, **GREEDY)
    assert calls == [2]


def test_image_tokens_without_pictures_are_refused(decoder: Ixc25ForCausalLM, pixels: Callable) -> None:
    ids = prompt(decoder, [pixels(1, 1)])[None]
    with pytest.raises(ValueError, match="there are no pictures"):
        decoder.generate(input_ids=ids, **GREEDY)
    with pytest.raises(ValueError, match=r"make 43 tokens but 25 places"):
        decoder(input_ids=ids, pixels=[pixels(1, 3)])
