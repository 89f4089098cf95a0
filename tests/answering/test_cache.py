"""The cache with room holds what transformers' own does, to the last bit, whatever is done to it."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lookright.answering.cache import ROOM, RoomyLayer, roomy_cache

NUM_HEADS, WIDTH = 3, 4


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randn(batch, NUM_HEADS, length, WIDTH)


def crop(layer: DynamicLayer) -> None:
    layer.crop(-2)


def repeat(layer: DynamicLayer) -> None:
    layer.batch_repeat_interleave(2)


def reorder(layer: DynamicLayer) -> None:
    layer.reorder_cache(torch.tensor([1, 1]))


def select(layer: DynamicLayer) -> None:
    layer.batch_select_indices(torch.tensor([1]))


def first_row(layer: DynamicLayer) -> None:
    """A view with the same start and strides, of fewer rows."""
    layer.batch_select_indices(slice(0, 1))  # type: ignore[arg-type]


def reset(layer: DynamicLayer) -> None:
    layer.reset()


@pytest.mark.parametrize("change", [crop, repeat, reorder, select, first_row, reset])
@pytest.mark.parametrize("before", [1, 3, ROOM + 5])
def test_it_holds_what_the_stock_layer_holds(change: Callable[[DynamicLayer], None], before: int) -> None:
    torch.manual_seed(0)
    ours, stock = RoomyLayer(), DynamicLayer()
    keys, values = tokens(2, 7), tokens(2, 7)
    for layer in (ours, stock):
        layer.update(keys, values)
    for step in range(before + ROOM):
        if step == before:
            change(ours)
            change(stock)
        batch = 2 if step < before or not stock.get_seq_length() else len(stock.keys)
        keys, values = tokens(batch, 1 + step % 2), tokens(batch, 1 + step % 2)
        for one, other in zip(ours.update(keys, values), stock.update(keys, values), strict=True):
            assert torch.equal(one, other)
        assert ours.get_seq_length() == stock.get_seq_length()


def test_most_tokens_are_written_where_there_is_room() -> None:
    layer = RoomyLayer()
    layer.update(tokens(2, 7), tokens(2, 7))
    starts = []
    for _ in range(2 * ROOM):
        keys, _ = layer.update(tokens(2, 1), tokens(2, 1))
        starts.append(keys.data_ptr())
    assert len(set(starts)) == 2


def test_layers_of_other_kinds_are_transformers_own() -> None:
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2, intermediate_size=8, vocab_size=8)
    model = LlamaForCausalLM(config)
    assert [type(layer) for layer in roomy_cache(model).layers] == [RoomyLayer, RoomyLayer]
    config.layer_types, config.sliding_window = ["sliding_attention", "full_attention"], 8
    assert [type(layer) for layer in roomy_cache(model).layers] == [DynamicSlidingWindowLayer, RoomyLayer]
