"""Metrics of a step, by hand: pairs count alike, whichever micro-batch and rank they are in."""

import math

import pytest
import torch

from lookright.training.step_means import StepMeans

CPU = torch.device("cpu")


def filled(*batches: tuple[list[float], list[float]]) -> StepMeans:
    means = StepMeans(["loss", "ratio"])
    for loss, ratio in batches:
        means.add({"loss": torch.tensor(loss), "ratio": torch.tensor(ratio)})
    return means


def test_one_batch_is_torchs_own_mean_to_the_bit() -> None:
    loss = [0.1, 0.7, 0.3]
    found = filled((loss, [math.nan, 0.25, 0.5])).means(None, CPU)
    assert torch.equal(found["loss"], torch.tensor(loss).mean())
    assert torch.equal(found["ratio"], torch.tensor([math.nan, 0.25, 0.5]).nanmean())


def test_micro_batches_are_weighted_by_their_pairs() -> None:
    means = filled(([1.0, 2.0, 3.0], [math.nan] * 3), ([10.0], [0.5]))
    assert means.num_pairs == 4
    assert {name: float(value) for name, value in means.means(None, CPU).items()} == {"loss": 4.0, "ratio": 0.5}
    means.clear()
    assert means.num_pairs == 0 and means.means(None, CPU) == {}


def test_ranks_are_weighted_by_their_pairs() -> None:
    """The other rank had one pair of loss 7 and ratio 0.1."""
    other = torch.tensor([[7.0, 0.1], [1.0, 1.0]], dtype=torch.float64)
    found = filled(([1.0, 1.0], [0.4, 0.4])).means(lambda totals: totals + other, CPU)
    assert float(found["loss"]) == pytest.approx(3.0) and float(found["ratio"]) == pytest.approx(0.3)
    # a rank without a pair logs the same
    found = filled().means(lambda totals: totals + other, CPU)
    assert float(found["loss"]) == 7.0
    assert filled().means(lambda totals: totals, CPU) == {}
