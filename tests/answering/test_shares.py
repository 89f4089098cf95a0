"""Shares of attention of all images: the target's is the attention ratio, by the pass that scores answers."""

import pytest
import torch

from lookright.answering.answerer import Answerer
from lookright.answering.decoder import Decoder
from lookright.answering.shares import attention_shares
from lookright.backbones.llava import LlavaBackbone
from lookright.composing.asked import asked_prompt
from lookright.records.held_pictures import HeldPictures
from lookright.types import Prompt, Region
from tests.examples import SIZES, lively_model, noise

PICTURES = HeldPictures([noise(size, number) for number, size in enumerate(SIZES)])


def ask(answerer: Answerer, prompts: list[Prompt]) -> list:
    return list(answerer.answer(prompts, PICTURES))


def answerer_with(llava: LlavaBackbone, rows: str) -> Answerer:
    model = lively_model(llava, torch.float32)
    decoder = Decoder(max_new_tokens=5)
    return Answerer(backbone=llava, policy=model, decoder=decoder, ratio_layer=3, batch_size=8, ratio_rows=rows)


def prompt_with(count: int, target: int | None) -> Prompt:
    asked = asked_prompt(PICTURES, "".join(f"Image{n + 1}:<image>\n" for n in range(5)) + "what color?", 0)
    shown = "".join(f"Image{n + 1}:<image>\n" for n in range(count)) + "what color is it?"
    names = asked.images[:count]
    regions = asked.regions[:count] if target is not None else None
    return Prompt(
        id=f"{count}-{target}",
        images=names,
        prompt=shown,
        ground_truth="",
        format="sequence",
        target=target,
        regions=regions,
    )


@pytest.mark.parametrize("rows", ["response", "generated", "first"])
def test_each_share_is_the_attention_ratio_of_that_target(llava: LlavaBackbone, rows: str) -> None:
    """In one batch with prompts of other lengths; the ratio comes from another pass with two columns."""
    answerer = answerer_with(llava, rows)
    prompts = [prompt_with(3, target) for target in range(3)] + [prompt_with(5, 4), prompt_with(1, 0)]
    scored = ask(answerer, prompts)
    found = attention_shares(answerer, scored, PICTURES)
    for target in range(3):
        assert found[0].shares[target] == pytest.approx(scored[target].attention_ratio, abs=2e-6)
        assert found[0].even[target] == pytest.approx(scored[target].even_ratio, abs=2e-6)
    assert found[3].shares[4] == pytest.approx(scored[3].attention_ratio, abs=2e-6)
    assert [len(one.shares) for one in found] == [3, 3, 3, 5, 1]
    for one in found:
        assert sum(one.shares) == pytest.approx(1, abs=1e-5) and sum(one.even) == pytest.approx(1, abs=1e-5)
    assert max(found[3].shares) - min(found[3].shares) > 0.02, "the model looks unevenly, so that a mix-up shows"


def test_without_regions_each_picture_is_an_image(llava: LlavaBackbone) -> None:
    answerer = answerer_with(llava, "response")
    known, unknown = ask(answerer, [prompt_with(4, 2)]), ask(answerer, [prompt_with(4, None)])
    assert unknown[0].attention_ratio is None
    assert attention_shares(answerer, unknown, PICTURES) == attention_shares(answerer, known, PICTURES)


def test_images_within_one_picture(llava: LlavaBackbone) -> None:
    """Two halves, and a picture in the other: the share of what is covered is that of the larger one's part."""
    answerer = answerer_with(llava, "response")
    width, height = SIZES[0]
    halves = [(0, 0, width / 2, height), (width / 2, 0, width, height)]
    regions = [Region(picture=0, box=box, source="s") for box in halves]
    shown = {"images": ["0"], "prompt": "<image>\nwhat?", "ground_truth": "", "format": "x"}
    (scored,) = ask(answerer, [Prompt(id="a", target=1, regions=regions, **shown)])
    (found,) = attention_shares(answerer, [scored], PICTURES)
    assert found.shares[1] == pytest.approx(scored.attention_ratio, abs=2e-6)
    whole = Region(picture=0, box=(0, 0, width, height), source="s")
    (scored,) = ask(answerer, [Prompt(id="b", target=1, regions=[whole, regions[1]], **shown)])
    (found,) = attention_shares(answerer, [scored], PICTURES)
    assert found.shares[0] == pytest.approx(1, abs=1e-5)
    assert found.shares[1] == pytest.approx(scored.attention_ratio, abs=2e-6) != 1
