import math

import pytest
import torch
from torch.nn import functional as F

from lookright.packing.logprobs import ScoredTokens, scored_tokens, sum_by_response, token_logps
from tests.compare import assert_close


def test_token_logps_by_hand() -> None:
    """Logits 0 and ln 3: probabilities 1/4 and 3/4; three equal ones: 1/3."""
    logits = torch.tensor([[0.0, math.log(3), -math.inf], [5.0, 5.0, 5.0], [0.0, math.log(3), -math.inf]])
    found = token_logps(logits, torch.tensor([1, 2, 0]))
    assert_close(found, torch.tensor([0.75, 1 / 3, 0.25]).log(), atol=1e-6, why="float32")


def test_precision_is_never_below_float32() -> None:
    logits = torch.randn(4, 7, dtype=torch.float64) * 30
    targets = torch.tensor([0, 3, 6, 2])
    exact = token_logps(logits, targets)
    assert exact.dtype == torch.float64
    assert_close(exact, logits.log_softmax(-1)[range(4), targets], atol=1e-12, why="float64")
    half = token_logps(logits.bfloat16(), targets)
    assert half.dtype == torch.float32
    wanted = logits.bfloat16().double().log_softmax(-1)[range(4), targets]
    assert_close(half, wanted, atol=1e-4, why="float32 at values up to 100")


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-8)])
def test_gradients_are_those_of_the_log_softmax(dtype: torch.dtype, rtol: float) -> None:
    """Two rows with one target, and weights of either sign."""
    values = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(5).to(dtype)
    targets, weights = torch.tensor([0, 3, 3, 6]), torch.tensor([2.0, -0.5, 1.0, 0.0], dtype=torch.float64)
    given, plain = (values.clone().requires_grad_() for _ in range(2))
    (token_logps(given, targets) * weights).sum().backward()
    (plain.double().log_softmax(-1)[range(4), targets] * weights).sum().backward()
    assert given.grad.dtype == dtype
    assert_close(given.grad, plain.grad, rtol=rtol, atol=1e-7, why=f"{dtype}, rounded once")
    assert not given.grad[3].any()


def test_tokens_that_cannot_follow_take_no_gradient() -> None:
    """A logit of -inf beside the target, and one of the target itself: values and gradients of the cross-entropy."""
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 2] = logits[1, 3] = -torch.inf
    targets, found = torch.tensor([0, 3]), []
    for step in (token_logps, lambda *given: -F.cross_entropy(*given, reduction="none")):
        leaf = logits.clone().requires_grad_()
        value = step(leaf, targets)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), leaf)))
    (values, of_logits), (wanted, wanted_gradient) = found
    assert values[0].isfinite() and values[1] == wanted[1] == -torch.inf
    assert of_logits[0, 2] == 0 and of_logits.isfinite().all()
    assert_close(values[0], wanted[0], rtol=1e-12, atol=0.0, why="float64")
    assert_close(of_logits, wanted_gradient, rtol=1e-12, atol=1e-15, why="float64")


def test_finite_at_extreme_bfloat16_logits() -> None:
    logits = torch.tensor([[1e3, -1e3]], dtype=torch.bfloat16, requires_grad=True)
    value = token_logps(logits, torch.tensor([1]))
    value.sum().backward()
    assert value.item() == -2000 and logits.grad.isfinite().all()


def test_the_shift_by_one() -> None:
    """Four tokens whose first has suffix row 5: the first is predicted by row 0, each other by the one before."""
    rows, targets = scored_tokens(torch.tensor([7, 8, 9, 2]), 0, first_input=5)
    assert rows.tolist() == [0, 5, 6, 7] and targets.tolist() == [7, 8, 9, 2]


def test_context_is_not_scored() -> None:
    rows, targets = scored_tokens(torch.tensor([7, 8, 9, 2]), 3, first_input=5)
    assert rows.tolist() == [7] and targets.tolist() == [2]


@pytest.mark.parametrize("first_input", [1, 4])
def test_one_token_is_predicted_by_the_prompt(first_input: int) -> None:
    rows, targets = scored_tokens(torch.tensor([2]), 0, first_input)
    assert rows.tolist() == [0] and targets.tolist() == [2]


def test_sums_go_to_their_owners() -> None:
    scored = ScoredTokens(
        rows=torch.arange(5), targets=torch.arange(5), owner=torch.tensor([0, 2, 2, 0, 3]), num_responses=4
    )
    assert sum_by_response(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), scored).tolist() == [9, 0, 6, 16]
    assert scored.counts().tolist() == [2, 0, 2, 1]


def test_first_scored_token_of_each_response() -> None:
    scored = ScoredTokens(
        rows=torch.arange(6), targets=torch.arange(6), owner=torch.tensor([0, 0, 1, 2, 2, 2]), num_responses=3
    )
    assert scored.firsts().tolist() == [True, False, True, True, False, False]
