"""Hinge of SLiC and RSO."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.losses.base import PairScores, Term
from lookright.losses.preference.hinge import HingeLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Margin 3: 1 - 0.25 * 3 = 0.25, and 1 - 0.5 * 3 < 0
    scores = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]])
    assert HingeLoss(beta=0.25)(scores).item() == 0.25
    assert HingeLoss(beta=0.5)(scores).item() == 0.0


def test_equals_the_equation(random_scores: Callable[..., PairScores]) -> None:
    scores = random_scores()
    gamma_chosen = 0.3 * (scores.policy_chosen.logps - scores.reference_chosen)
    gamma_rejected = 0.3 * (scores.policy_rejected.logps[:, 0] - scores.reference_rejected[:, 0])
    expected = torch.maximum(torch.zeros(7, dtype=torch.float64), 1 - (gamma_chosen - gamma_rejected))
    torch.testing.assert_close(HingeLoss(0.3)(scores), expected, rtol=1e-12, atol=1e-12)


def test_one_where_policy_equals_reference(make_scores: Callable[..., PairScores]) -> None:
    assert HingeLoss()(make_scores([-4.0], [[-1.0]], [-4.0], [[-1.0]])).item() == 1.0


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    chosen, rejected = gradients(HingeLoss(), make_scores([-4.0, 0.0], [[-4.0], [-50.0]], [-4.0, 0.0], [[-4.0], [0.0]]))
    assert chosen.tolist() == pytest.approx([-0.1, 0.0])
    assert rejected.flatten().tolist() == pytest.approx([0.1, 0.0])


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(HingeLoss())
