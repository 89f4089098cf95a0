"""Robust DPO."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, Term
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.preference.robust import RobustDPOLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Margin 3, beta 0.5: losses 0.2014132780 and, swapped, 1.7014132780; e = 0.2:
    # (0.8 * 0.2014132780 - 0.2 * 1.7014132780) / 0.6 = -0.2985867220
    loss = RobustDPOLoss(beta=0.5, label_smoothing=0.2)(make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]]))
    assert loss.item() == pytest.approx(-0.2985867220172476, abs=1e-12)


def test_equals_the_equation(random_scores: Callable[..., PairScores]) -> None:
    scores, flip = random_scores(), 0.15
    margin = scores.policy_chosen.logps - scores.reference_chosen
    margin = margin - scores.policy_rejected.logps[:, 0] + scores.reference_rejected[:, 0]
    clean, swapped = (-torch.log(1 / (1 + torch.exp(-sign * 0.3 * margin))) for sign in (1, -1))
    expected = ((1 - flip) * clean - flip * swapped) / (1 - 2 * flip)
    torch.testing.assert_close(RobustDPOLoss(0.3, flip)(scores), expected, rtol=1e-9, atol=1e-9)


def test_log_2_where_policy_equals_reference(make_scores: Callable[..., PairScores]) -> None:
    loss = RobustDPOLoss()(make_scores([-4.0], [[-1.0]], [-4.0], [[-1.0]]))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    # Unlike smoothed DPO it keeps pushing, however wide the margin.
    chosen, rejected = gradients(
        RobustDPOLoss(), make_scores([-4.0, 0.0], [[-4.0], [-50.0]], [-4.0, 0.0], [[-4.0], [0.0]])
    )
    assert (chosen < 0).all() and (rejected > 0).all()


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(RobustDPOLoss(label_smoothing=0.49))


def test_unbiased_under_swapped_labels(make_scores: Callable[..., PairScores]) -> None:
    forward = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]])
    backward = make_scores([-7.0], [[-3.0]], [-6.0], [[-5.0]])
    term = RobustDPOLoss(0.5, 0.3)
    torch.testing.assert_close(0.7 * term(forward) + 0.3 * term(backward), DPOLoss(0.5)(forward))


def test_without_smoothing_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^label_smoothing=0.* > 0 and < 0\.5"):
        RobustDPOLoss(label_smoothing=0)
