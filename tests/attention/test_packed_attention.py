"""Both parts of packed attention against a softmax over the whole row with the whole mask."""

import pytest
import torch
from torch import Tensor, nn

from lookright.attention import PackedCall, PackedLayout, RowRecorder, build_layout, suffix_attention
from lookright.attention.interface import lookright_attention
from lookright.attention.packed import packed_attention
from lookright.errors import BackboneError
from tests.compare import assert_close

SCALE = 0.7
ROUNDING = "float64, sums in another order"

LAYOUTS = {
    "one_pair": ([6], [[3, 2]]),
    "no_prefix": ([1], [[2, 3]]),
    "one_token_responses": ([4], [[0, 0]]),
    "three_ragged_groups": ([5, 1, 9], [[2, 7], [1], [0, 4, 1]]),
}


def whole_mask(layout: PackedLayout) -> Tensor:
    """Who sees whom in the row, from the rule itself: bool[T, T]."""
    mask = torch.zeros(layout.num_tokens, layout.num_tokens, dtype=torch.bool)
    for group, visible in zip(layout.groups, layout.visible, strict=True):
        prefix = slice(group.start, group.split)
        suffix = slice(group.split, group.stop)
        mask[prefix, prefix] = torch.ones(group.num_prefix, group.num_prefix, dtype=torch.bool).tril()
        mask[suffix, prefix] = True
        mask[suffix, suffix] = visible
    return mask


def slow(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Output float[B, T, H, D] and probabilities float[B, H, T, T]."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
    logits = (query @ key.transpose(2, 3) * SCALE).masked_fill(~mask, float("-inf"))
    probabilities = logits.softmax(-1)
    return (probabilities @ value).transpose(1, 2), probabilities


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> PackedLayout:
    return build_layout(*request.param)


@pytest.fixture(params=[1, 2, 4], ids=["single_key_head", "grouped", "every_head"])
def tensors(request: pytest.FixtureRequest, layout: PackedLayout) -> list[Tensor]:
    """Query, key, value with gradients; values are wider than keys."""
    shapes = [(4, 6), (request.param, 6), (request.param, 5 if layout.num_tokens % 2 else 6)]
    return [
        torch.randn(1, heads, layout.num_tokens, width, dtype=torch.float64, requires_grad=True)
        for heads, width in shapes
    ]


def test_all_rows_and_their_gradients(layout: PackedLayout, tensors: list[Tensor]) -> None:
    found = packed_attention(*tensors, SCALE, 0, PackedCall(layout=layout))
    wanted, _ = slow(*tensors, whole_mask(layout))
    assert_close(found, wanted, atol=1e-12, why=ROUNDING)
    weights = torch.randn_like(wanted)
    pairs = zip(*(torch.autograd.grad((side * weights).sum(), tensors) for side in (found, wanted)), strict=True)
    for name, (actual, expected) in zip(("query", "key", "value"), pairs, strict=True):
        assert_close(actual, expected, atol=1e-12, why=ROUNDING, name=f"gradient of {name}")


def test_suffix_rows_alone(layout: PackedLayout, tensors: list[Tensor]) -> None:
    query, key, value = tensors
    rows = query[:, :, layout.suffix_index]
    found = suffix_attention(rows, key, value, SCALE, 0, PackedCall(layout=layout))
    wanted, _ = slow(*tensors, whole_mask(layout))
    assert_close(found, wanted[:, layout.suffix_index], atol=1e-12, why=ROUNDING)


def test_recorded_rows_are_the_probabilities(layout: PackedLayout, tensors: list[Tensor]) -> None:
    """Heat maps: head-averaged rows of each group over its own keys; no other layer is recorded."""
    recorder = RowRecorder([2])
    recorder.expect(layout)
    for layer in (1, 2):
        packed_attention(*tensors, SCALE, layer, PackedCall(layout=layout, recorder=recorder))
    _, probabilities = slow(*tensors, whole_mask(layout))
    assert recorder.masses().keys() == {2} and len(recorder.masses()[2]) == len(layout.groups)
    for group, rows in zip(layout.groups, recorder.masses()[2], strict=True):
        wanted = probabilities[0, :, group.split : group.stop, group.start : group.stop].mean(0)
        assert_close(rows, wanted, atol=1e-12, why=ROUNDING, name="recorded rows")


def test_weighted_rows_sum_over_the_whole_row_of_tokens(layout: PackedLayout, tensors: list[Tensor]) -> None:
    weights = torch.rand(layout.num_tokens, 3, dtype=torch.float64)
    recorder = RowRecorder([0], weights)
    recorder.expect(layout)
    packed_attention(*tensors, SCALE, 0, PackedCall(layout=layout, recorder=recorder))
    _, probabilities = slow(*tensors, whole_mask(layout))
    wanted = probabilities[0].mean(0)[layout.suffix_index] @ weights
    assert_close(recorder.stacked()[0], wanted, atol=1e-12, why=ROUNDING)


def test_attention_dropout_is_refused_in_a_packed_row() -> None:
    layout = build_layout([2], [[1]])
    states = torch.zeros(1, 1, 3, 2)
    with pytest.raises(BackboneError, match="attention_dropout"):
        lookright_attention(nn.Module(), states, states, states, None, dropout=0.1, packed=PackedCall(layout=layout))
