"""TRL's head as a GPU takes it: the same numbers from fewer rows, and nothing else of TRL."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("trl", reason="the benchmarks' other side")

from trl.trainer import utils as trl_utils  # noqa: E402

from benchmarks.side_trl import responses_alone  # noqa: E402
from tests.compare import assert_close  # noqa: E402


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).double()
    trl_utils.add_fused_lm_head(model)
    return model


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the head projects, a number a call."""
    counted: list[int] = []
    plain = trl_utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(states: Tensor, *rest: object) -> object:
            counted.append(len(states))
            return plain.apply(states, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Counted)
    return counted


def scored(model: LlamaForCausalLM) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of two rows of 9 tokens, of which 3 and 5 are scored, and the gradients of their sum."""
    model = copy.deepcopy(model)
    trl_utils.add_fused_lm_head(model)
    ids = torch.arange(18).view(2, 9) % 50
    labels = ids.clone()
    labels[0, :6], labels[1, :4] = -100, -100
    found = model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs
    found.pow(2).sum().backward()
    return found.detach(), {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def test_numbers_and_gradients_are_those_of_every_position(model: LlamaForCausalLM, rows: list[int]) -> None:
    plain, plain_gradients = scored(model)
    with responses_alone() as asked:
        compact, compact_gradients = scored(model)
    assert asked.call_count == 1
    assert rows == [2 * 8, 3 + 5], "every position, then the scored ones"
    assert_close(compact, plain, atol=1e-12, why="float64, the same products row by row")
    assert compact.count_nonzero() == 8 and plain_gradients.keys() == compact_gradients.keys()
    for name, wanted in plain_gradients.items():
        assert_close(compact_gradients[name], wanted, atol=1e-11, why="float64", name=name)


def test_outside_it_trl_is_as_it_was(model: LlamaForCausalLM, rows: list[int]) -> None:
    before = trl_utils._use_triton
    with responses_alone():
        assert trl_utils._use_triton is not before
    assert trl_utils._use_triton is before
    scored(model)
    assert rows == [2 * 8]


def test_a_trl_that_does_not_ask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trl_utils, "_use_triton")
    with pytest.raises(RuntimeError, match="_use_triton"), responses_alone():
        pass
