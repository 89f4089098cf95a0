"""From records to tokens, pixels and coverage."""

import copy
from pathlib import Path

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import RecordError
from lookright.packing.encode import encode_answer, encode_preference, encode_question, region_coverage, row_length
from lookright.records.readers import RecordSet, load_preferences
from lookright.types import Prompt, Region
from tests.examples import write_pairs


@pytest.fixture()
def loaded(tmp_path: Path) -> RecordSet:
    return load_preferences(write_pairs(tmp_path, 6))


def test_chosen_comes_first_and_all_rejected_follow(llava: LlavaBackbone, loaded: RecordSet) -> None:
    for record in loaded.records:
        example = encode_preference(llava, record, loaded.pictures)
        texts = [llava.decode(response.token_ids.tolist()) for response in example.responses]
        assert texts == [record.chosen, *record.rejected]
        assert all(response.token_ids[-1] == llava.end_token_ids[0] for response in example.responses)
        assert (example.id, example.label) == (record.id, "sequence")


def test_length_from_sizes_alone_is_that_of_the_row(llava: LlavaBackbone, loaded: RecordSet) -> None:
    for record in loaded.records:
        example = encode_preference(llava, record, loaded.pictures)
        assert row_length(llava, record, loaded.pictures) == example.num_tokens


def test_pixels_are_those_of_each_picture_in_order(llava: LlavaBackbone, loaded: RecordSet) -> None:
    record = loaded.records[2]
    example = encode_preference(llava, record, loaded.pictures)
    assert len(set(record.images)) == len(example.pixels) == 3
    for name, pixels in zip(record.images, example.pixels, strict=True):
        assert torch.equal(pixels, llava.preprocess(loaded.pictures.open(name), 3))


def test_coverage_lies_on_the_target(llava: LlavaBackbone, loaded: RecordSet) -> None:
    record = loaded.records[1]
    example = encode_preference(llava, record, loaded.pictures)
    start, stop = example.prompt.image_spans[record.target]
    size = loaded.pictures.size(record.images[record.target])
    wanted = llava.token_map(size, 2).coverage(record.regions[1].box)
    assert torch.equal(example.coverage[start:stop, 0], wanted)
    assert example.coverage[:, 0].sum() == wanted.sum() > 0


def test_two_regions_of_one_picture_share_its_tokens(llava: LlavaBackbone) -> None:
    """As in a collage: left and right half of a square picture, a third of 9 tokens each and 3 between them."""
    prompt = llava.encode_prompt("<image>\nIn Image2, red?", [(90, 90)])
    halves = [(0, 0, 45, 90), (45, 0, 90, 90)]
    left, right = (
        region_coverage(llava, prompt, [Region(picture=0, box=box, source="s")], [(90, 90)]) for box in halves
    )
    start, stop = prompt.image_spans[0]
    assert left[start:stop].tolist() == [1, 0.5, 0] * 3 and right[start:stop].tolist() == [0, 0.5, 1] * 3


def test_unknown_geometry_has_no_coverage(llava: LlavaBackbone, tmp_path: Path) -> None:
    loaded = load_preferences(write_pairs(tmp_path, 3, geometry=False))
    assert all(encode_question(llava, record, loaded.pictures).coverage is None for record in loaded.records)


def test_an_answer_follows_its_question(llava: LlavaBackbone, loaded: RecordSet) -> None:
    source = loaded.records[0]
    record = Prompt(
        id="p",
        images=source.images,
        prompt=source.prompt,
        ground_truth="red",
        format="sequence",
        target=0,
        regions=source.regions,
    )
    example = encode_answer(llava, record, "blue, 2", loaded.pictures)
    assert [llava.decode(response.token_ids.tolist()) for response in example.responses] == ["blue, 2"]
    assert torch.equal(example.coverage, encode_question(llava, record, loaded.pictures).coverage)
    assert torch.equal(example.prompt.input_ids, encode_question(llava, record, loaded.pictures).prompt.input_ids)


def test_the_limit_holds_for_the_prompt_with_its_longest_answer(llava: LlavaBackbone, loaded: RecordSet) -> None:
    record = loaded.records[1]
    example = encode_preference(llava, record, loaded.pictures)
    longest = len(example.prompt.input_ids) + max(len(response.token_ids) for response in example.responses)
    assert example.num_tokens > longest, "the row of all answers is longer, and that is no matter"
    twin = copy.copy(llava)
    twin.max_length = longest
    assert row_length(twin, record, loaded.pictures) == example.num_tokens
    twin.max_length = longest - 1
    with pytest.raises(RecordError, match=f"{longest} tokens.*set backbone.max_length higher") as caught:
        row_length(twin, record, loaded.pictures)
    assert caught.value.reason == "too_long"
