"""The weighted sum: what is evaluated, what is needed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lookright.errors import ConfigError
from lookright.losses.attention import AttentionLoss
from lookright.losses.base import PairScores, Term
from lookright.losses.composite import CompositeLoss
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.sft import SFTLoss


class Exploding:
    """A term that must never run."""

    name = "exploding"
    needs_reference = True
    needs_attention = True

    def __call__(self, scores: PairScores) -> torch.Tensor:
        raise AssertionError("evaluated")


def test_weighted_sum_and_unweighted_values(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0, -4.0], [[-7.0], [-2.0]], [-5.0, -4.0], [[-6.0], [-2.0]], ratio=[0.25, 0.9])
    loss, values = CompositeLoss(
        {"dpo": (1.0, DPOLoss()), "sft": (0.1, SFTLoss()), "attention": (0.9, AttentionLoss())}
    )(scores)
    expected = DPOLoss()(scores) + 0.1 * SFTLoss()(scores) + 0.9 * torch.tensor([0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    assert loss.shape == (2,) and loss.requires_grad
    assert sorted(values) == ["loss_attention", "loss_dpo", "loss_sft"]
    assert values["loss_sft"].tolist() == [3.0, 4.0]
    assert not any(value.requires_grad for value in values.values())


def test_weight_zero_costs_nothing(make_scores: Callable[..., PairScores]) -> None:
    loss = CompositeLoss({"dpo": (0.0, Exploding()), "sft": (1.0, SFTLoss())})
    assert not loss.needs_reference and not loss.needs_attention
    total, values = loss(make_scores([-3.0], [[-7.0]]))
    assert total.item() == 3.0 and list(values) == ["loss_sft"]
    assert loss.metrics(make_scores([-3.0], [[-7.0]])) == {}


def test_needs_are_those_of_the_active_terms() -> None:
    loss = CompositeLoss({"dpo": (1, DPOLoss()), "attention": (0.9, AttentionLoss(layers=[2, 3]))})
    assert loss.needs_reference and loss.needs_attention and loss.attention_layers == [2, 3]
    assert CompositeLoss({"dpo": (1, DPOLoss())}).attention_layers is None


def test_metrics_of_all_terms(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]], ratio=[0.25])
    found = CompositeLoss({"dpo": (1, DPOLoss()), "attention": (0.9, AttentionLoss())}).metrics(scores)
    assert found["attention_ratio"].tolist() == [0.25]
    assert found["reward_margin"].tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("weights", [{"dpo": 0.0, "sft": 0}, {}])
def test_all_weights_zero(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="nothing would train"):
        CompositeLoss({name: (weight, SFTLoss()) for name, weight in weights.items()})


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "1"])
def test_bad_weight(weight: Any) -> None:
    with pytest.raises(ConfigError, match="weight of loss term sft"):
        CompositeLoss({"sft": (weight, SFTLoss())})


def test_terms_follow_the_protocol() -> None:
    assert all(isinstance(term, Term) for term in (DPOLoss(), SFTLoss(), AttentionLoss()))
