"""The weighted sum: what is evaluated, what is needed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lookright.errors import ConfigError
from lookright.losses.attention import AttentionLoss
from lookright.losses.base import AttentionRead, PairScores, Reads, Term
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.preference.orpo import ORPOLoss
from lookright.losses.preference.simpo import SimPOLoss
from lookright.losses.sft import SFTLoss
from tests.weighted import make_loss


class Exploding(Term):
    """A term that must never run."""

    name = "exploding"
    reads = Reads(reference=True, attention=AttentionRead())

    def __call__(self, scores: PairScores) -> torch.Tensor:
        raise AssertionError("evaluated")


def test_weighted_sum_and_unweighted_values(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0, -4.0], [[-7.0], [-2.0]], [-5.0, -4.0], [[-6.0], [-2.0]], ratio=[0.25, 0.9])
    loss, values = make_loss()(scores)
    expected = DPOLoss()(scores) + 0.1 * SFTLoss()(scores) + 0.9 * torch.tensor([0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    assert loss.shape == (2,) and loss.requires_grad
    assert sorted(values) == ["loss_attention", "loss_dpo", "loss_sft"]
    assert values["loss_sft"].tolist() == [3.0, 4.0]
    assert not any(value.requires_grad for value in values.values())
    assert str(make_loss()) == "1 x dpo + 0.1 x sft + 0.9 x attention"


def test_weight_zero_costs_nothing(make_scores: Callable[..., PairScores]) -> None:
    loss = CompositeLoss({"preference": Weighted(0.0, Exploding()), "sft": Weighted(1.0, SFTLoss())})
    assert not loss.needs_reference and not loss.needs_attention and loss.attention_reads == {}
    total, values = loss(make_scores([-3.0], [[-7.0]]))
    assert total.item() == 3.0 and list(values) == ["loss_sft"]
    assert loss.metrics(make_scores([-3.0], [[-7.0]])) == {}


@pytest.mark.parametrize("kind", [SimPOLoss(), ORPOLoss()])
def test_a_kind_without_reference_reads_none(kind: Term) -> None:
    assert not make_loss(gamma=0.0, kind=kind).needs_reference and make_loss().needs_reference


def test_each_term_sees_the_attention_that_it_reads(make_scores: Callable[..., PairScores]) -> None:
    early, late = AttentionLoss(0.5, layers=[0, 1]), AttentionLoss(1.0, layers=[3], positions="first")
    loss = CompositeLoss(
        {"early": Weighted(1.0, early), "late": Weighted(10.0, late), "unread": Weighted(0.0, AttentionLoss())}
    )
    reads = {"early": AttentionRead((0, 1), "response"), "late": AttentionRead((3,), "first")}
    assert loss.attention_reads == reads
    scores = make_scores([-3.0], [[-7.0]])
    scores.attention_ratios = {
        reads["early"]: torch.tensor([0.25], requires_grad=True),
        reads["late"]: torch.tensor([0.75], requires_grad=True),
    }
    total, values = loss(scores)
    assert (values["loss_early"].item(), values["loss_late"].item()) == (0.25, 0.25) and total.item() == 2.75


def test_terms_of_one_class_go_by_their_keys(make_scores: Callable[..., PairScores]) -> None:
    loss = CompositeLoss({"soft": Weighted(1.0, DPOLoss(0.1)), "hard": Weighted(2.0, DPOLoss(0.5))})
    assert list(loss(make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]]))[1]) == ["loss_soft", "loss_hard"]
    with pytest.raises(ConfigError, match="two loss terms are called dpo"):
        CompositeLoss({"preference": Weighted(1.0, DPOLoss()), "dpo": Weighted(1.0, SFTLoss())})


def test_metrics_of_all_terms(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]], ratio=[0.25])
    found = make_loss(gamma=0.0).metrics(scores)
    assert set(found) == {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"}
    assert found["reward_margin"].tolist() == pytest.approx([0.3])


def test_orpo_holds_its_own_likelihood_term() -> None:
    with pytest.raises(ConfigError, match=r"loss/kind=orpo already contains.*loss\.gamma=0\.1.*set loss\.gamma=0"):
        make_loss(kind=ORPOLoss())
    assert list(make_loss(gamma=0.0, kind=ORPOLoss()).terms) == ["orpo", "attention"]
    assert list(make_loss(alpha=0.0, kind=ORPOLoss()).terms) == ["sft", "attention"]


@pytest.mark.parametrize("weights", [{"dpo": 0.0, "sft": 0}, {}])
def test_all_weights_zero(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="nothing would train"):
        CompositeLoss({name: Weighted(weight, SFTLoss()) for name, weight in weights.items()})


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "1"])
def test_bad_weight(weight: Any) -> None:
    with pytest.raises(ConfigError, match="^weight=.*set a number >= 0"):
        Weighted(weight, SFTLoss())


def test_positions_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="^positions='last'; valid: response, generated, first"):
        AttentionLoss(positions="last")
