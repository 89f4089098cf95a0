"""Placeholders: counting, splitting and expanding, the same for every backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.backbones.base import EncodedPrompt
from lookright.errors import RecordError
from lookright.types import IMAGE_PLACEHOLDER


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
