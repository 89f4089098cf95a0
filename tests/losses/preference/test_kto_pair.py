"""KTO on pairs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.losses.base import PairScores, Term
from lookright.losses.preference.kto_pair import KTOPairLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Log-ratios 2, 4 (mean 3) for chosen, -1, -3 (mean -2, so 0) for rejected; beta 0.5.
    # Pair 1: sigmoid(0.5 (0 - 2)) = 0.2689414214, sigmoid(0.5 (-1 - 3)) = 0.1192029220
    # Pair 2: sigmoid(0.5 (0 - 4)) = 0.1192029220, sigmoid(0.5 (-3 - 3)) = 0.0474258732
    scores = make_scores([-3.0, -1.0], [[-7.0], [-9.0]], [-5.0, -5.0], [[-6.0], [-6.0]])
    expected = [(0.2689414213699951 + 0.1192029220221175) / 2, (0.1192029220221175 + 0.0474258731775668) / 2]
    assert KTOPairLoss(0.5)(scores).tolist() == pytest.approx(expected, abs=1e-12)


def test_equals_the_equation(random_scores: Callable[..., PairScores]) -> None:
    scores, beta = random_scores(), 0.3
    reward_chosen = scores.policy_chosen.logps - scores.reference_chosen
    reward_rejected = (scores.policy_rejected.logps - scores.reference_rejected)[:, 0]
    baseline_chosen, baseline_rejected = (max(reward.mean().item(), 0.0) for reward in (reward_chosen, reward_rejected))
    value_chosen = 1 / (1 + torch.exp(-beta * (reward_chosen - baseline_rejected)))
    value_rejected = 1 / (1 + torch.exp(-beta * (baseline_chosen - reward_rejected)))
    expected = ((1 - value_chosen) + (1 - value_rejected)) / 2
    torch.testing.assert_close(KTOPairLoss(beta)(scores), expected, rtol=1e-9, atol=1e-12)


def test_one_half_where_policy_equals_reference(make_scores: Callable[..., PairScores]) -> None:
    assert KTOPairLoss()(make_scores([-4.0], [[-1.0]], [-4.0], [[-1.0]])).item() == 0.5


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    chosen, rejected = gradients(
        KTOPairLoss(), make_scores([-4.0, -1.0], [[-4.0], [-9.0]], [-4.0, -5.0], [[-4.0], [-4.0]])
    )
    assert (chosen < 0).all() and (rejected > 0).all()


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(KTOPairLoss())


def test_no_gradient_through_the_baseline(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    scores = make_scores([-1.0], [[-9.0]], [-5.0], [[-4.0]])
    chosen, _ = gradients(KTOPairLoss(0.5), scores)
    # d/dr sigmoid(-0.5 r) / 2 at r = 4: -0.25 s (1 - s), s = sigmoid(-2); the baseline of the other side adds none.
    s = torch.sigmoid(torch.tensor(-2.0, dtype=torch.float64))
    assert chosen.item() == pytest.approx((-0.25 * s * (1 - s)).item(), abs=1e-12)


def test_padding_does_not_enter_the_baseline(make_scores: Callable[..., PairScores]) -> None:
    padded = make_scores([-3.0], [[-2.0, 500.0]], [-5.0], [[-6.0, 0.0]], mask=[[True, False]])
    plain = make_scores([-3.0], [[-2.0]], [-5.0], [[-6.0]])
    torch.testing.assert_close(KTOPairLoss()(padded), KTOPairLoss()(plain))
