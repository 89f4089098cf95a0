"""Identity preference optimisation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, Term
from lookright.losses.preference.ipo import IPOLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Margin 3; 1 / (2 * 0.25) = 2; (3 - 2)^2 = 1
    tokens = {"chosen_tokens": [4], "rejected_tokens": [[2]]}
    scores = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]], **tokens)
    assert IPOLoss(beta=0.25)(scores).item() == 1.0
    # Averaged: 2 / 4 - (-1) / 2 = 1; (1 - 2)^2 = 1
    assert IPOLoss(beta=0.25, average=True)(scores).item() == 1.0
    # and with 0.125: (1 - 4)^2 = 9
    assert IPOLoss(beta=0.125, average=True)(scores).item() == 9.0


@pytest.mark.parametrize("average", [False, True])
def test_equals_the_equation(random_scores: Callable[..., PairScores], average: bool) -> None:
    scores, tau = random_scores(), 0.3
    num_chosen = scores.policy_chosen.num_tokens if average else 1
    num_rejected = scores.policy_rejected.num_tokens[:, 0] if average else 1
    # Eq. 15 and 17: h is the log of the policy's odds over the reference's.
    h = (scores.policy_chosen.logps - scores.reference_chosen) / num_chosen
    h = h - (scores.policy_rejected.logps[:, 0] - scores.reference_rejected[:, 0]) / num_rejected
    torch.testing.assert_close(IPOLoss(tau, average)(scores), (h - tau**-1 / 2) ** 2, rtol=1e-12, atol=1e-12)


def test_squared_target_where_policy_equals_reference(make_scores: Callable[..., PairScores]) -> None:
    loss = IPOLoss(0.1)(make_scores([-4.0], [[-1.0]], [-4.0], [[-1.0]]))
    assert loss.item() == pytest.approx(25.0, abs=1e-12)  # (1 / 0.2)^2


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    chosen, rejected = gradients(IPOLoss(0.1), make_scores([-4.0], [[-4.0]], [-4.0], [[-4.0]]))
    assert chosen < 0 and rejected > 0
    # Past the target of 5 nats the margin is pulled back.
    chosen, rejected = gradients(IPOLoss(0.1), make_scores([-4.0], [[-14.0]], [-4.0], [[-4.0]]))
    assert chosen > 0 and rejected < 0


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(IPOLoss())
    assert_finite_in_bfloat16(IPOLoss(average=True))


def test_average_is_a_truth_value() -> None:
    with pytest.raises(ConfigError, match="set true or false"):
        IPOLoss(average="yes")
