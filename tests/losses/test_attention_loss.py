"""The attention-aware term, and that the check of its sign catches a wrong one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.attention import AttentionLoss
from lookright.losses.base import PairScores, SideScores


def scores_of(ratio: Tensor) -> PairScores:
    """Pairs of which only the ratio matters."""
    logps = torch.zeros_like(ratio)
    chosen = SideScores(logps=logps, num_tokens=torch.ones_like(ratio, dtype=torch.long))
    rejected = SideScores(logps=logps[:, None], num_tokens=torch.ones_like(ratio, dtype=torch.long)[:, None])
    return PairScores(policy_chosen=chosen, policy_rejected=rejected, attention_ratio=ratio)


def ratios_around_a_step(term: Callable[[PairScores], Tensor]) -> tuple[Tensor, Tensor]:
    """Ratio before and after one step of gradient descent on attention logits of 2 pairs x 3 images, target 0."""
    generator = torch.Generator().manual_seed(0)
    logits_PI = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    before = logits_PI.softmax(dim=1)[:, 0]
    loss = term(scores_of(before)).mean()
    # The zero keeps autograd from raising by itself: a term cut from its graph must be found by what it does.
    (gradient,) = torch.autograd.grad(loss + 0.0 * logits_PI.sum(), logits_PI)
    after = (logits_PI - 0.1 * gradient).softmax(dim=1)[:, 0]
    return before.detach(), after.detach()


def assert_a_step_raises_the_ratio(term: Callable[[PairScores], Tensor]) -> None:
    before, after = ratios_around_a_step(term)
    assert (after > before).all(), f"ratio {before.tolist()} before the step, {after.tolist()} after"


def test_hand_derived() -> None:
    ratio = torch.tensor([0.25, 0.75, 1.0, 0.0])
    assert AttentionLoss(threshold=0.75)(scores_of(ratio)).tolist() == [0.5, 0.0, 0.0, 0.75]


def test_equals_the_equation() -> None:
    ratio = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([max(0.0, 0.6 - value) for value in ratio.tolist()], dtype=torch.float64)
    torch.testing.assert_close(AttentionLoss(0.6)(scores_of(ratio)), expected, rtol=0, atol=0)


def test_pairs_of_other_formats_are_left_alone() -> None:
    ratio = torch.tensor([0.25, 0.25, float("nan"), 0.5], dtype=torch.float64, requires_grad=True)
    scores = scores_of(ratio)
    scores.formats = ["sequence", "pic_in_pic", "pic_in_pic", "grid_collage"]
    values = AttentionLoss(formats=["sequence", "grid_collage"])(scores)
    assert values.tolist() == [0.5, 0.0, 0.0, 0.25]
    values.sum().backward()
    assert ratio.grad.tolist() == [-1.0, 0.0, 0.0, -1.0]
    with pytest.raises(ConfigError, match="holds no pair"):
        AttentionLoss(formats=[])


def test_threshold_less_even_share_where_no_image_stands_out() -> None:
    # The kin of log 2: attention spread evenly over 4 images.
    ratio = torch.full((2,), 0.25, dtype=torch.float64)
    assert AttentionLoss()(scores_of(ratio)).tolist() == [0.5, 0.5]


def test_gradient_signs() -> None:
    ratio = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    AttentionLoss()(scores_of(ratio)).sum().backward()
    assert ratio.grad.tolist() == [-1.0, 0.0]


def test_finite_in_bfloat16() -> None:
    ratio = torch.tensor([-1e3, 0.0, 1e3], dtype=torch.bfloat16, requires_grad=True)
    loss = AttentionLoss()(scores_of(ratio))
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    loss.sum().backward()
    assert ratio.grad.isfinite().all()


def test_a_step_raises_the_ratio() -> None:
    assert_a_step_raises_the_ratio(AttentionLoss(threshold=0.95))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda scores: (scores.attention_ratio - 0.1).relu(), id="wrong sign"),
        pytest.param(lambda scores: (0.95 - scores.attention_ratio.detach()).relu(), id="no gradient"),
        pytest.param(lambda scores: scores.attention_ratio, id="overwritten by the ratio"),
    ],
)
def test_the_step_check_catches_a_wrong_term(wrong: Callable[[PairScores], Tensor]) -> None:
    with pytest.raises(AssertionError, match="before the step"):
        assert_a_step_raises_the_ratio(wrong)


def test_a_ratio_cut_from_the_graph_is_refused() -> None:
    scores = scores_of(torch.tensor([0.2]))
    scores.policy_chosen.logps.requires_grad_()
    with pytest.raises(ValueError, match="carries no gradient"):
        AttentionLoss()(scores)
    with torch.no_grad():
        assert AttentionLoss()(scores).item() == pytest.approx(0.55)


def test_a_missing_ratio_is_named() -> None:
    scores = scores_of(torch.tensor([0.2]))
    scores.attention_ratio = None
    with pytest.raises(ValueError, match="needs the attention ratio"):
        AttentionLoss()(scores)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5, "high"])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"^threshold=.*> 0 and <= 1"):
        AttentionLoss(threshold=threshold)
