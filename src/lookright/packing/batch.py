"""A batch is one padding-free row: prompts with their responses, pictures once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lookright.attention import PackedLayout, build_layout, even_ratio
from lookright.backbones.prompts import EncodedPrompt
from lookright.packing.logprobs import ScoredTokens, scored_tokens


@dataclass(slots=True, kw_only=True)
class Response:
    """Tokens that follow a prompt: int64[n]; the first `num_unscored` are context (a further question)."""

    token_ids: Tensor
    num_unscored: int = 0


@dataclass(slots=True, kw_only=True)
class Example:
    """One prompt with its responses, ready to be packed.

    `pixels`: one float32[3, H, W] a picture; `coverage`: float32[L, 2], share of each prompt token that the target
    region and that all regions cover, None where the geometry is unknown; `label`: what metrics are grouped under;
    `keys`: one content key a response (`packed.keys`), only where a reference looks numbers up by them.
    """

    id: str
    prompt: EncodedPrompt
    pixels: list[Tensor]
    responses: list[Response]
    coverage: Tensor | None = None
    label: str = ""
    keys: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Row tokens that this example costs."""
        return len(self.prompt.input_ids) + sum(len(response.token_ids) - 1 for response in self.responses)


@dataclass(slots=True, kw_only=True)
class PackedBatch:
    """Examples in one row of T tokens.

    `input_ids`, `position_ids`: int64[1, T]; `image_mask`: bool[1, T]; `coverage`: float32[T, 2], what the
    target and what all source images cover of each token; `even_ratio`: float32[P], the attention ratio of an even
    look; `has_target`: bool[P], False where the geometry is unknown (ratios are NaN there); `first_response`: int64[P],
    the number of each prompt's first response among all `scored.num_responses`; `keys`: one a response, or none.
    """

    ids: list[str]
    labels: list[str]
    input_ids: Tensor
    position_ids: Tensor
    image_mask: Tensor
    pixels: list[Tensor]
    layout: PackedLayout
    scored: ScoredTokens
    coverage: Tensor
    even_ratio: Tensor
    has_target: Tensor
    first_response: Tensor
    keys: list[str] = field(default_factory=list)

    @property
    def num_prompts(self) -> int:
        """Prompts P."""
        return len(self.ids)

    def prompt_of_response(self) -> Tensor:
        """The prompt that each response answers, 0-based: int64[R]."""
        responses = torch.arange(self.scored.num_responses, device=self.first_response.device)
        return torch.searchsorted(self.first_response, responses, right=True) - 1


def pack(examples: Sequence[Example]) -> PackedBatch:
    """Lay examples out in one row, in order."""
    layout = build_layout(
        [len(example.prompt.input_ids) for example in examples],
        [[len(response.token_ids) - 1 for response in example.responses] for example in examples],
    )
    counts = torch.tensor([len(example.responses) for example in examples])
    image_mask = torch.cat([_image_mask(example) for example in examples])
    coverage = [_coverage(example) for example in examples]
    return PackedBatch(
        ids=[example.id for example in examples],
        labels=[example.label for example in examples],
        input_ids=torch.cat([_row_ids(example) for example in examples])[None],
        position_ids=torch.cat([_positions(example) for example in examples])[None],
        image_mask=image_mask[None],
        pixels=[picture for example in examples for picture in example.pixels],
        layout=layout,
        scored=_scored(examples),
        coverage=torch.cat(coverage),
        even_ratio=torch.stack([even_ratio(of_one) for of_one in coverage]),
        has_target=torch.tensor([example.coverage is not None for example in examples]),
        first_response=counts.cumsum(0) - counts,
        keys=[key for example in examples for key in example.keys],
    )


def empty_batch() -> PackedBatch:
    """A batch of no prompt, which no pass takes: the place of one whose records all had to be left out."""
    none = torch.zeros(0, dtype=torch.long)
    return PackedBatch(
        ids=[],
        labels=[],
        input_ids=none[None],
        position_ids=none[None],
        image_mask=none[None].bool(),
        pixels=[],
        layout=PackedLayout(groups=[], suffix_index=none, visible=[], prefix_starts=torch.zeros(1, dtype=torch.int32)),
        scored=ScoredTokens(rows=none, targets=none, owner=none, num_responses=0),
        coverage=torch.zeros(0, 2),
        even_ratio=torch.zeros(0),
        has_target=none.bool(),
        first_response=none,
    )


def _row_ids(example: Example) -> Tensor:
    return torch.cat([example.prompt.input_ids, *(response.token_ids[:-1] for response in example.responses)])


def _positions(example: Example) -> Tensor:
    length = len(example.prompt.input_ids)
    # every response goes on from the prompt, as if it were alone: 0 .. L-1 | L, L+1, ... | L, L+1, ...
    runs = [torch.arange(length, length + len(response.token_ids) - 1) for response in example.responses]
    return torch.cat([torch.arange(length), *runs])


def _image_mask(example: Example) -> Tensor:
    mask = torch.zeros(example.num_tokens, dtype=torch.bool)
    for start, stop in example.prompt.image_spans:
        mask[start:stop] = True
    return mask


def _coverage(example: Example) -> Tensor:
    row = torch.zeros(example.num_tokens, 2)
    if example.coverage is not None:
        row[: len(example.coverage)] = example.coverage
    return row


def _scored(examples: Sequence[Example]) -> ScoredTokens:
    """Rows, targets and owners of all responses; rows count through the suffixes of all prompts."""
    rows, targets, owners = [], [], []
    suffix_start, owner = 0, 0
    for example in examples:
        # within a suffix row 0 is the last prompt token, which all responses share; their inputs begin at row 1
        first_input = 1
        for response in example.responses:
            response_rows, response_targets = scored_tokens(response.token_ids, response.num_unscored, first_input)
            rows.append(response_rows + suffix_start)
            targets.append(response_targets)
            owners.append(torch.full_like(response_rows, owner))
            # a response of n tokens has n - 1 inputs: its last token predicts nothing
            first_input += len(response.token_ids) - 1
            owner += 1
        # one past the last input is the suffix's length, so where the next prompt's begins
        suffix_start += first_input
    return ScoredTokens(rows=torch.cat(rows), targets=torch.cat(targets), owner=torch.cat(owners), num_responses=owner)


def move(value: Any, device: torch.device) -> Any:
    """A batch, or anything inside one, with every tensor on `device`."""
    return _mapped(value, lambda tensor: tensor.to(device))


def pinned(value: Any) -> Any:
    """A batch, or anything inside one, with every tensor in pinned memory."""
    return _mapped(value, Tensor.pin_memory)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{entry.name: _mapped(getattr(value, entry.name), change) for entry in fields(value)})
    return value
