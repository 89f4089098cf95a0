"""DPO and its conservative form."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, Term
from lookright.losses.preference.dpo import DPOLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    # Log-ratios 2 and -1: margin 3; 0.5 * 3 = 1.5; log(1 + exp(-1.5)) = 0.2014132779827524
    scores = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]])
    assert DPOLoss(beta=0.5)(scores).item() == pytest.approx(0.2014132779827524, abs=1e-12)
    # Smoothed by 0.2: 0.8 * 0.2014132780 + 0.2 * (0.2014132780 + 1.5)
    assert DPOLoss(beta=0.5, label_smoothing=0.2)(scores).item() == pytest.approx(0.5014132779827524, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_equals_the_equation(random_scores: Callable[..., PairScores], smoothing: float) -> None:
    scores = random_scores()
    policy_odds = torch.exp(scores.policy_chosen.logps - scores.reference_chosen)
    reference_odds = torch.exp(scores.policy_rejected.logps[:, 0] - scores.reference_rejected[:, 0])
    preferred = 1 / (1 + torch.exp(-(0.3 * torch.log(policy_odds) - 0.3 * torch.log(reference_odds))))
    expected = -(1 - smoothing) * torch.log(preferred) - smoothing * torch.log(1 - preferred)
    torch.testing.assert_close(DPOLoss(0.3, smoothing)(scores), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_log_2_where_policy_equals_reference(make_scores: Callable[..., PairScores], smoothing: float) -> None:
    scores = make_scores([-4.0, -9.0], [[-1.0], [-2.0]], [-4.0, -9.0], [[-1.0], [-2.0]])
    torch.testing.assert_close(DPOLoss(0.1, smoothing)(scores), torch.full((2,), math.log(2), dtype=torch.float64))


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    chosen, rejected = gradients(
        DPOLoss(), make_scores([-4.0, -30.0], [[-4.0], [-1.0]], [-4.0, -3.0], [[-4.0], [-9.0]])
    )
    assert (chosen < 0).all() and (rejected > 0).all()
    # Smoothed, the margin has an optimum: past log(0.8 / 0.2) / beta nats it is pulled back.
    wide = make_scores([0.0], [[-50.0]], [0.0], [[0.0]])
    chosen, rejected = gradients(DPOLoss(0.1, label_smoothing=0.2), wide)
    assert chosen > 0 and rejected < 0


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(DPOLoss())
    assert_finite_in_bfloat16(DPOLoss(label_smoothing=0.1))


def test_several_rejected_average_over_those_that_exist(make_scores: Callable[..., PairScores]) -> None:
    both = make_scores([-3.0], [[-7.0, -4.0]], [-5.0], [[-6.0, -6.0]])
    single = [make_scores([-3.0], [[value]], [-5.0], [[-6.0]]) for value in (-7.0, -4.0)]
    mean = sum(DPOLoss()(scores) for scores in single) / 2
    torch.testing.assert_close(DPOLoss()(both), mean)
    padded = make_scores([-3.0], [[-7.0, 0.0]], [-5.0], [[-6.0, 0.0]], mask=[[True, False]])
    loss = DPOLoss()(padded)
    torch.testing.assert_close(loss, DPOLoss()(single[0]))
    loss.sum().backward()
    assert padded.policy_rejected.logps.grad[0, 1] == 0


def test_metrics(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores(
        [-3.0, -3.0], [[-7.0, -1.0]] * 2, [-5.0, -5.0], [[-6.0, -6.0]] * 2, mask=[[True, True], [True, False]]
    )
    found = DPOLoss(0.5).metrics(scores)
    # Rewards 0.5 * 2 = 1 for chosen; -0.5 and 2.5 for rejected.
    assert found["reward_chosen"].tolist() == [1.0, 1.0]
    assert found["reward_rejected"].tolist() == [1.0, -0.5]
    assert found["reward_margin"].tolist() == [0.0, 1.5]
    assert found["reward_accuracy"].tolist() == [0.5, 1.0]
    assert not any(value.requires_grad for value in found.values())


def test_swapping_sides_mirrors_the_margin(make_scores: Callable[..., PairScores]) -> None:
    forward = make_scores([-3.0], [[-7.0]], [-5.0], [[-6.0]])
    backward = make_scores([-7.0], [[-3.0]], [-6.0], [[-5.0]])
    # log sigmoid(x) - log sigmoid(-x) = x
    assert (DPOLoss(0.5)(backward) - DPOLoss(0.5)(forward)).item() == pytest.approx(1.5, abs=1e-12)


def test_without_a_reference_it_says_so(make_scores: Callable[..., PairScores]) -> None:
    with pytest.raises(ValueError, match="needs the reference"):
        DPOLoss()(make_scores([-3.0], [[-7.0]]))


@pytest.mark.parametrize(
    ("key", "value"), [("beta", 0.0), ("beta", -1), ("label_smoothing", 0.5), ("label_smoothing", -0.1)]
)
def test_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=.*set a number >"):
        DPOLoss(**{key: value})
