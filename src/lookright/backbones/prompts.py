"""Conversations in tokens, the same for every backbone: placeholders, stretches of text, where an answer starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookright.errors import RecordError
from lookright.types import IMAGE_PLACEHOLDER


@dataclass(slots=True, frozen=True, kw_only=True)
class EncodedPrompt:
    """A prompt as the decoder sees it.

    `input_ids` is int64[L], pictures already expanded to their tokens; `image_spans` gives the
    half-open token range of each picture, in order.
    """

    input_ids: Tensor
    image_spans: list[tuple[int, int]]


def check_placeholders(prompt: str, num_pictures: int) -> None:
    """Raise RecordError where a prompt's placeholders and its pictures differ in number."""
    found = prompt.count(IMAGE_PLACEHOLDER)
    if found != num_pictures:
        raise RecordError(
            "placeholders",
            f"the prompt has {found} {IMAGE_PLACEHOLDER} for {num_pictures} pictures: {prompt[:80]!r}; "
            f"write {IMAGE_PLACEHOLDER} once for each picture, in order",
        )


def expand_images(parts: Sequence[Tensor], counts: Sequence[int], fill: int) -> EncodedPrompt:
    """Text parts with `counts[i]` picture tokens (id `fill`) after part i: len(parts) == len(counts) + 1."""
    assert len(parts) == len(counts) + 1, "one text part around every picture"
    pieces, spans, length = [parts[0]], [], len(parts[0])
    for count, part in zip(counts, parts[1:], strict=True):
        spans.append((length, length + count))
        pieces += [torch.full((count,), fill, dtype=torch.long), part]
        length += count + len(part)
    return EncodedPrompt(input_ids=torch.cat(pieces), image_spans=spans)


def shared_prompt(prompts: Sequence[EncodedPrompt]) -> EncodedPrompt:
    """The longest common start of conversations about the same pictures, which all of them hold whole."""
    rows = [prompt.input_ids for prompt in prompts]
    length = min(len(row) for row in rows)
    same = torch.stack([row[:length] == rows[0][:length] for row in rows]).all(0)
    start = int(same.long().cumprod(0).sum())
    spans = prompts[0].image_spans
    # every stretch of text is tokenised by itself, so that conversations part behind the last picture
    assert all(prompt.image_spans == spans for prompt in prompts), "conversations about other pictures"
    assert all(stop <= start for _, stop in spans), "conversations part before their last picture"
    return EncodedPrompt(input_ids=rows[0][:start], image_spans=spans)
