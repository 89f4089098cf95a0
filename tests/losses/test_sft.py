"""The likelihood term."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lookright.losses.base import PairScores, SideScores, Term
from lookright.losses.sft import SFTLoss


def test_hand_derived(make_scores: Callable[..., PairScores]) -> None:
    scores = make_scores([-3.0, -8.0], [[-1.0], [-1.0]], chosen_tokens=[3, 16])
    assert SFTLoss()(scores).tolist() == [1.0, 0.5]


def test_equals_the_cross_entropy_of_its_tokens() -> None:

    generator = torch.Generator().manual_seed(0)
    logits_TV = torch.randn(5, 11, generator=generator, dtype=torch.float64)
    labels_T = torch.randint(0, 11, (5,), generator=generator)
    logps = logits_TV.log_softmax(-1).gather(1, labels_T[:, None]).sum()
    side = SideScores(logps=logps[None], num_tokens=torch.tensor([5]))
    other = SideScores(logps=logps.new_zeros(1, 1), num_tokens=torch.ones(1, 1, dtype=torch.long))
    expected = torch.nn.functional.cross_entropy(logits_TV, labels_T)
    loss = SFTLoss()(PairScores(policy_chosen=side, policy_rejected=other))
    torch.testing.assert_close(loss[0], expected, rtol=1e-12, atol=1e-12)


def test_log_2_where_every_token_is_a_coin(make_scores: Callable[..., PairScores]) -> None:
    loss = SFTLoss()(make_scores([-7 * math.log(2)], [[-1.0]], chosen_tokens=[7]))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)


def test_gradient_signs(
    make_scores: Callable[..., PairScores], gradients: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    chosen, rejected = gradients(SFTLoss(), make_scores([-4.0], [[-4.0]], chosen_tokens=[4]))
    assert chosen.item() == -0.25
    assert rejected.item() == 0.0


def test_finite_in_bfloat16(assert_finite_in_bfloat16: Callable[[Term], None]) -> None:
    assert_finite_in_bfloat16(SFTLoss())
