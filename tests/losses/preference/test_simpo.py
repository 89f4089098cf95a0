"""SimPO."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, Term
from lookright.losses.preference.simpo import SimPOLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Per token -1 and -2; 2 * (-1 + 2) - 0.5 = 1.5; log(1 + exp(-1.5)) = 0.2014132779827524
    scores = make_scores([-3.0], [[-8.0]], chosen_tokens=[3], rejected_tokens=[[4]])
    assert SimPOLoss(beta=2.0, target_margin=0.5)(scores).item() == pytest.approx(0.2014132779827524, abs=1e-12)


def test_equals_the_equation(random_scores: Callable[..., PairScores]) -> None:
    scores, beta, gamma = random_scores(), 2.5, 1.4
    reward_chosen = beta / scores.policy_chosen.num_tokens.double() * scores.policy_chosen.logps
    reward_rejected = beta / scores.policy_rejected.num_tokens[:, 0].double() * scores.policy_rejected.logps[:, 0]
    expected = -torch.log(1 / (1 + torch.exp(-(reward_chosen - reward_rejected - gamma))))
    torch.testing.assert_close(SimPOLoss(beta, gamma)(scores), expected, rtol=1e-9, atol=1e-9)


def test_log_2_where_the_sides_are_equal(make_scores: Callable[..., PairScores]) -> None:
    # No reference: its kin is equal rewards and no margin asked, at different lengths.
    scores = make_scores([-4.0], [[-2.0]], chosen_tokens=[4], rejected_tokens=[[2]])
    assert SimPOLoss(target_margin=0.0)(scores).item() == pytest.approx(math.log(2), abs=1e-12)


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    tokens = {"chosen_tokens": [2, 2], "rejected_tokens": [[2], [2]]}
    chosen, rejected = gradients(SimPOLoss(), make_scores([-4.0, -1.0], [[-4.0], [-9.0]], **tokens))
    assert (chosen < 0).all() and (rejected > 0).all()


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(SimPOLoss())


def test_needs_no_reference(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0], [[-8.0]], chosen_tokens=[3], rejected_tokens=[[4]])
    assert SimPOLoss.reads.reference is False
    # Rewards 2 * -1 and 2 * -2
    assert SimPOLoss().metrics(scores)["reward_margin"].item() == 2.0


def test_negative_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^target_margin=-1"):
        SimPOLoss(target_margin=-1)
