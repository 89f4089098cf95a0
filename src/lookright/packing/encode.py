"""From a record to tokens, pixels and coverage for one backbone. Nothing is ever truncated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.backbones.base import Backbone
from lookright.backbones.prompts import EncodedPrompt
from lookright.common.boxes import disjoint
from lookright.errors import RecordError
from lookright.packing.batch import Example, Response
from lookright.packing.question import DecoderInput
from lookright.records.pictures import Pictures
from lookright.types import FollowUp, Preference, Prompt, Region, Size, Turn


def region_coverage(
    backbone: Backbone, prompt: EncodedPrompt, regions: Sequence[Region], sizes: Sequence[Size]
) -> Tensor:
    """Share of each prompt token that the union of the regions covers: float32[L] in [0, 1], 0 on text.

    A token that regions cover in part counts in part; where they overlap it counts once.
    """
    coverage = torch.zeros(len(prompt.input_ids))
    for number, (start, stop) in enumerate(prompt.image_spans):
        boxes = disjoint([region.box for region in regions if region.picture == number])
        if boxes:
            token_map = backbone.token_map(sizes[number], len(sizes))
            coverage[start:stop] = torch.stack([token_map.coverage(box) for box in boxes]).sum(0)
    return coverage


def look_coverage(
    backbone: Backbone, prompt: EncodedPrompt, regions: Sequence[Region], target: int, sizes: Sequence[Size]
) -> Tensor:
    """What the attention ratio weighs: float32[L, 2], the target's coverage and that of all source images together."""
    of_target = region_coverage(backbone, prompt, [regions[target]], sizes)
    return torch.stack([of_target, region_coverage(backbone, prompt, regions, sizes)], dim=1)


def encode_preference(backbone: Backbone, record: Preference, pictures: Pictures) -> Example:
    """The pair with its pictures, chosen first."""
    return _conversations(backbone, record, (record.chosen, *record.rejected), pictures)


def encode_answer(backbone: Backbone, record: Prompt, answer: str | Sequence[int], pictures: Pictures) -> Example:
    """A prompt with one given answer for a teacher-forced pass: a text, or the tokens that were generated."""
    if isinstance(answer, str):
        return _conversations(backbone, record, (answer,), pictures)
    question = encode_question(backbone, record, pictures)
    return _example(record, question, [Response(token_ids=torch.tensor(answer))])


def encode_question(backbone: Backbone, record: Preference | Prompt, pictures: Pictures) -> DecoderInput:
    """A prompt to answer: its tokens, its pictures, and `look_coverage` where the geometry is known."""
    sizes = [pictures.size(name) for name in record.images]
    prompt = backbone.encode_prompt(record.prompt, sizes, history_of(record))
    return _shown(backbone, record, prompt, pictures)


def history_of(record: Preference | Prompt) -> Sequence[Turn]:
    """The turns before a record's question, mostly none."""
    return record.history if isinstance(record, FollowUp) else ()


def _conversations(
    backbone: Backbone, record: Preference | Prompt, answers: Sequence[str], pictures: Pictures
) -> Example:
    sizes = [pictures.size(name) for name in record.images]
    prompt, responses = backbone.encode_conversation(record.prompt, answers, sizes, history_of(record))
    question = _shown(backbone, record, prompt, pictures)
    return _example(record, question, [Response(token_ids=token_ids) for token_ids in responses])


def _shown(backbone: Backbone, record: Preference | Prompt, prompt: EncodedPrompt, pictures: Pictures) -> DecoderInput:
    """The prompt with its pictures and the target's coverage."""
    sizes = [pictures.size(name) for name in record.images]
    target, regions = record.target, record.regions
    coverage = None
    if target is not None and regions is not None:
        coverage = look_coverage(backbone, prompt, regions, target, sizes)
    return DecoderInput(
        prompt=prompt,
        pixels=[backbone.preprocess(pictures.open(name), len(record.images)) for name in record.images],
        coverage=coverage,
    )


def row_length(backbone: Backbone, record: Preference | Prompt, pictures: Pictures) -> int:
    """Row tokens of a record, from sizes alone. Raises RecordError (reason `too_long`) past the backbone's limit.

    The limit holds for each conversation by itself: the prompt and its longest answer.
    """
    sizes = [pictures.size(name) for name in record.images]
    answers = [record.chosen, *record.rejected] if isinstance(record, Preference) else []
    prompt, responses = backbone.encode_conversation(record.prompt, answers, sizes, history_of(record))
    num_prompt, lengths = len(prompt.input_ids), [len(token_ids) for token_ids in responses]
    longest = num_prompt + max(lengths, default=0)
    if longest > backbone.max_length:
        raise RecordError(
            "too_long",
            f"prompt and answer have {longest} tokens ({num_prompt} in the prompt, {len(record.images)} pictures), "
            f"the limit is {backbone.max_length}; set backbone.max_length higher",
        )
    return num_prompt + sum(length - 1 for length in lengths)


def _example(record: Preference | Prompt, question: DecoderInput, responses: list[Response]) -> Example:
    return Example(
        id=record.id,
        prompt=question.prompt,
        pixels=question.pixels,
        responses=responses,
        coverage=question.coverage,
        label=record.format or "",
    )
