"""ORPO."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.losses.base import PairScores, Term
from lookright.losses.preference.orpo import ORPOLoss, log_odds


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Per token p = 1/2 and 1/5: odds 1 and 1/4, ratio 4; log sigmoid(log 4) = log(4/5).
    # log 2 - 0.1 * log 0.8 = 0.7154615359
    scores = make_scores([-2 * math.log(2)], [[-3 * math.log(5)]], chosen_tokens=[2], rejected_tokens=[[3]])
    assert ORPOLoss(beta=0.1)(scores).item() == pytest.approx(0.7154615356913662, abs=1e-12)


def test_equals_the_equation(random_scores: Callable[..., PairScores]) -> None:
    scores, weight = random_scores(), 0.3
    chosen = torch.exp(scores.policy_chosen.logps / scores.policy_chosen.num_tokens)
    rejected = torch.exp(scores.policy_rejected.logps / scores.policy_rejected.num_tokens)[:, 0]
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    expected = -torch.log(chosen) + weight * -torch.log(1 / (1 + torch.exp(-torch.log(odds_ratio))))
    torch.testing.assert_close(ORPOLoss(weight)(scores), expected, rtol=1e-9, atol=1e-9)


def test_log_2_where_the_sides_are_equal(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0], [[-1.5]], chosen_tokens=[2], rejected_tokens=[[1]])
    assert ORPOLoss(0.5)(scores).item() == pytest.approx(1.5 + 0.5 * math.log(2), abs=1e-12)


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    # The last pair's rejected answer is certain (p = 1): it is still pushed down.
    chosen, rejected = gradients(ORPOLoss(), make_scores([-4.0, -0.1, -2.0], [[-4.0], [-9.0], [0.0]]))
    assert (chosen < 0).all() and (rejected > 0).all()


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(ORPOLoss())


def test_log_odds_keep_their_digits() -> None:
    logps = torch.tensor([-1e-5, -0.1, -math.log(2), -5.0, -40.0], dtype=torch.float64)
    p = logps.exp()
    exact = torch.log(p / -torch.expm1(logps))
    torch.testing.assert_close(log_odds(logps), exact, rtol=1e-12, atol=1e-12)
    # In float32: log(p / (1 - p)) itself is off by 4e-3 at -1e-5; the tolerance is 16 ulp.
    torch.testing.assert_close(log_odds(logps.float()), exact.float(), rtol=2e-6, atol=2e-6)


def test_needs_no_reference_and_holds_the_likelihood() -> None:
    assert ORPOLoss.reads.reference is False
    assert ORPOLoss.contains_sft is True
