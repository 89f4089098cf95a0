"""Scaled rows by hand and against a softmax written out."""

import math

import pytest
import torch

from lookright.attention import ImageScaling, scaled_image_attention
from lookright.attention.scaling import active_scaling
from tests.compare import assert_close


def make_scaling(factors: torch.Tensor, **options: object) -> ImageScaling:
    return ImageScaling(factors=factors, coverage=torch.ones(*factors.shape, 1), **options)


def test_by_hand() -> None:
    """Logits ln 2, ln 4, 0; a factor of 2 on the first token makes its weight 4 of 9."""
    query = torch.tensor([[[[1.0]]]])
    key = torch.tensor([[[[math.log(2)], [math.log(4)], [0.0]]]])
    value = torch.tensor([[[[1.0], [0.0], [0.0]]]])
    scaling = make_scaling(torch.tensor([[2.0, 1.0, 1.0]]))
    found = scaling.attend(query, key, value, None, 1.0, 0)
    assert found.shape == (1, 1, 1, 1)
    assert_close(found.flatten(), torch.tensor([4 / 9]), atol=1e-6, why="float32")


@pytest.mark.parametrize("additive", [True, False])
def test_grouped_heads_masks_and_generated_tokens(additive: bool) -> None:
    """Two prompts, one padded; five keys of which the last two were generated and are never scaled."""
    query, key, value = torch.randn(2, 4, 1, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    factors = torch.tensor([[1.0, 0.3, 2.0], [1.0, 1.0, 1.7]])
    seen = torch.tensor([[True] * 5, [False, True, True, True, True]])[:, None, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) if additive else seen
    scaling = make_scaling(factors, every_step=True)
    found = scaling.attend(query, key, value, mask, 0.5, 0)
    keys, values = (part.repeat_interleave(2, 1) for part in (key, value))
    logits = (query @ keys.transpose(2, 3)) * 0.5 * torch.cat([factors, torch.ones(2, 2)], 1)[:, None, None]
    probabilities = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    assert_close(found, (probabilities @ values).transpose(1, 2), atol=1e-6, why="float32")
    watched = probabilities.mean(1)[:, 0, :3].sum(-1, keepdim=True)
    assert_close(scaling.masses[0], watched, atol=1e-6, why="float32", name="watched attention")


def test_layers_that_are_not_chosen_are_watched_and_not_scaled() -> None:
    query, key, value = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    factors = torch.tensor([[5.0, 1.0, 1.0]])
    scaling = make_scaling(factors, layers=frozenset([1]))
    plain = make_scaling(torch.ones(1, 3)).attend(query, key, value, None, 0.5, 0)
    assert torch.equal(scaling.attend(query, key, value, None, 0.5, 0), plain)
    assert not torch.allclose(scaling.attend(query, key, value, None, 0.5, 1), plain)
    assert scaling.masses.keys() == {0, 1}


def test_which_passes_it_applies_to() -> None:
    first, every = make_scaling(torch.ones(1, 7)), make_scaling(torch.ones(1, 7), every_step=True)
    passes = [(1, 7), (1, 8), (7, 7), (6, 6)]
    assert [first.applies(*sizes) for sizes in passes] == [True, False, False, False]
    assert [every.applies(*sizes) for sizes in passes] == [True, True, False, False]


def test_it_ends_with_its_block_even_after_an_error() -> None:
    outer, inner = make_scaling(torch.ones(1, 2)), make_scaling(torch.ones(1, 3))
    with scaled_image_attention(outer):
        with pytest.raises(RuntimeError), scaled_image_attention(inner):
            assert active_scaling() is inner
            raise RuntimeError
        assert active_scaling() is outer
    assert active_scaling() is None
