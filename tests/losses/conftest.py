"""Scores in float64 and the checks that every preference term shares."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lookright.losses.base import PairScores, SideScores, Term

Rows = Sequence[Sequence[float]]


def make_scores(
    chosen: Sequence[float],
    rejected: Rows,
    reference_chosen: Sequence[float] | None = None,
    reference_rejected: Rows | None = None,
    *,
    chosen_tokens: Sequence[int] | None = None,
    rejected_tokens: Sequence[Sequence[int]] | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    ratio: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> PairScores:
    """Leaves with gradients; one token a response unless told."""

    def leaf(values: object) -> Tensor:
        return torch.tensor(values, dtype=dtype, requires_grad=True)

    policy_chosen, policy_rejected = leaf(chosen), leaf(rejected)
    return PairScores(
        policy_chosen=SideScores(
            logps=policy_chosen,
            num_tokens=torch.ones_like(policy_chosen, dtype=torch.long)
            if chosen_tokens is None
            else torch.tensor(chosen_tokens),
        ),
        policy_rejected=SideScores(
            logps=policy_rejected,
            num_tokens=torch.ones_like(policy_rejected, dtype=torch.long)
            if rejected_tokens is None
            else torch.tensor(rejected_tokens),
            mask=None if mask is None else torch.tensor(mask),
        ),
        reference_chosen=None if reference_chosen is None else torch.tensor(reference_chosen, dtype=dtype),
        reference_rejected=None if reference_rejected is None else torch.tensor(reference_rejected, dtype=dtype),
        attention_ratio=None if ratio is None else leaf(ratio),
    )


def random_scores(num_pairs: int = 7, num_rejected: int = 1, seed: int = 0) -> PairScores:
    """Plausible log-probabilities of answers of 1 to 12 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return -30 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.01

    def lengths(*shape: int) -> Tensor:
        return torch.randint(1, 13, shape, generator=generator)

    wide = (num_pairs, num_rejected)
    return PairScores(
        policy_chosen=SideScores(logps=draw(num_pairs).requires_grad_(), num_tokens=lengths(num_pairs)),
        policy_rejected=SideScores(logps=draw(*wide).requires_grad_(), num_tokens=lengths(*wide)),
        reference_chosen=draw(num_pairs),
        reference_rejected=draw(*wide),
    )


def gradients(term: Term, scores: PairScores) -> tuple[Tensor, Tensor]:
    """Of the summed loss to the policy's chosen and rejected log-probabilities: float[P], float[P, k]."""
    leaves = (scores.policy_chosen.logps, scores.policy_rejected.logps)
    found = torch.autograd.grad(term(scores).sum(), leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, leaves, strict=True))


def assert_finite_in_bfloat16(term: Term) -> None:
    """Values and gradients at every combination of +-1e3, one token each."""
    extremes = [-1e3, 0.0, 1e3]
    grid = torch.cartesian_prod(*[torch.tensor(extremes)] * 4).tolist()
    scores = make_scores(
        [row[0] for row in grid],
        [[row[1]] for row in grid],
        [row[2] for row in grid],
        [[row[3]] for row in grid],
        dtype=torch.bfloat16,
    )
    values = term(scores)
    assert values.dtype == torch.float32
    assert values.isfinite().all(), values
    for gradient in gradients(term, scores):
        assert gradient.isfinite().all(), gradient


@pytest.fixture(name="make_scores")
def _make_scores() -> Callable[..., PairScores]:
    return make_scores


@pytest.fixture(name="random_scores")
def _random_scores() -> Callable[..., PairScores]:
    return random_scores


@pytest.fixture(name="gradients")
def _gradients() -> Callable[[Term, PairScores], tuple[Tensor, Tensor]]:
    return gradients


@pytest.fixture(name="assert_finite_in_bfloat16")
def _assert_finite_in_bfloat16() -> Callable[[Term], None]:
    return assert_finite_in_bfloat16
