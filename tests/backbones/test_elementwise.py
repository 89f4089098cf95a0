"""Element-wise steps of a decoder against the single operations that they stand for."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lookright.backbones.elementwise import gated_silu, rotate
from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.decoder import Ixc25FeedForward
from lookright.backbones.llava import LlavaBackbone
from tests.compare import assert_close


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def outcome(step: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradient of every input for a gradient that differs everywhere."""
    leaves = [part.clone().requires_grad_() for part in inputs]
    value = step(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, random(*value.shape, dtype=value.dtype, seed=9))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_gate_is_the_plain_one_to_the_last_bit(dtype: torch.dtype) -> None:
    gate, up = random(2, 5, 7, dtype=dtype), random(2, 5, 7, dtype=dtype, seed=1)
    found = outcome(gated_silu, gate, up)
    for one, other in zip(found, outcome(lambda *parts: F.silu(parts[0]) * parts[1], gate, up), strict=True):
        assert torch.equal(one, other)


def test_gradients_of_any_layout() -> None:
    """Transposed, as attention hands them on, and one number everywhere, as a sum does."""
    gate, up = random(2, 5, 8), random(2, 5, 8, seed=1)
    cos, sin = tables(length=5, width=8, dtype=torch.float64)
    plain = {
        gated_silu: lambda *parts: F.silu(parts[0]) * parts[1],
        _turned_by(cos, sin): lambda *parts: apply_rotary_pos_emb(parts[0], parts[1], cos[0], sin[0], 0)[0] * parts[1],
    }
    for step, definition in plain.items():
        for reduce in (Tensor.sum, lambda value: (value.transpose(0, 2) * random(8, 5, 2, seed=3)).sum()):
            found = []
            for function in (step, definition):
                leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
                found.append(torch.autograd.grad(reduce(function(*leaves)), leaves))
            for one, other in zip(*found, strict=True):
                assert_close(one, other, atol=1e-13, why="float64")


def _turned_by(cos: Tensor, sin: Tensor) -> Callable[..., Tensor]:
    return lambda *parts: rotate(parts[0], cos, sin) * parts[1]


def test_the_gate_keeps_its_two_inputs_and_nothing_else() -> None:
    kept: list[Tensor] = []
    gate, up = (random(4, 6, seed=seed).requires_grad_() for seed in (0, 1))
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part):
        gated_silu(gate, up)
    assert sorted(part.data_ptr() for part in kept) == sorted([gate.data_ptr(), up.data_ptr()])


@pytest.mark.parametrize(("activation", "num_kept"), [("silu", 2), ("gelu", 3)])
def test_the_blocks_of_both_families_use_it_where_their_activation_is_the_one(
    llava: LlavaBackbone, activation: str, num_kept: int
) -> None:
    """A frozen block keeps gate and up for its input's gradient; of another activation also what that makes."""
    backbone = copy.copy(llava)
    backbone.config = copy.deepcopy(llava.config)
    backbone.config.text_config.hidden_act = activation
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Ixc25Config(hidden_size=8, intermediate_size=12, hidden_act=activation, **heads)
    for block in (backbone.language_model(backbone.build(weights=False)).layers[0].mlp, Ixc25FeedForward(config)):
        gate, up, down = _products(block.requires_grad_(False))
        x, kept = random(1, 5, gate.in_features, dtype=gate.weight.dtype).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda part, kept=kept: kept.append(part) or part, lambda p: p):
            value = block(x)
        assert len({part.data_ptr() for part in kept if part.shape == (1, 5, gate.out_features)}) == num_kept
        assert_close(value, down(ACT2FN[activation](gate(x)) * up(x)), atol=1e-6, why="float32")


def _products(block: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    names = ("gate_proj", "up_proj", "down_proj") if hasattr(block, "gate_proj") else ("w1", "w3", "w2")
    return tuple(getattr(block, name) for name in names)


def tables(*, length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions that do not count up: float[1, L, D]."""
    angles = torch.arange(length).flip(0)[:, None] / 3 ** torch.arange(width // 2)
    doubled = torch.cat([angles, angles], -1).double()[None]
    return doubled.cos().to(dtype), doubled.sin().to(dtype)


@pytest.mark.parametrize("token_major", [True, False], ids=["token_major", "head_major"])
def test_rotation_is_that_of_transformers(token_major: bool) -> None:
    states = random(1, 9, 3, 8).transpose(1, 2) if token_major else random(1, 3, 9, 8)
    cos, sin = tables(length=9, width=8, dtype=torch.float64)
    found = outcome(lambda part: rotate(part, cos[:, None], sin[:, None]), states)
    wanted = outcome(lambda part: apply_rotary_pos_emb(part, part, cos, sin)[0], states)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=1e-14, why="float64, a product and its sum may round as one")
    assert found[0].stride() == states.stride()


def test_rotation_of_a_narrower_type_has_that_of_its_tables() -> None:
    """As under autocast, where projections are in 16 bits and positions in 32."""
    states, (cos, sin) = random(1, 2, 5, 4, dtype=torch.bfloat16), tables(length=5, width=4, dtype=torch.float32)
    value, gradient = outcome(lambda part: rotate(part, cos[:, None], sin[:, None]), states)
    # in float32 throughout; transformers' own rounds the two parts of this gradient before it adds them
    wanted = outcome(lambda part: apply_rotary_pos_emb(part, part, cos, sin)[0], states.float())
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    assert_close(value, wanted[0], atol=1e-6, why="float32, a product and its sum may round as one")
    assert_close(gradient, wanted[1], atol=1e-6, rtol=2**-8, why="rounded to bfloat16 once")
