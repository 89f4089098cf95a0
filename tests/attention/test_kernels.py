"""Every prefix kernel against the plain one, values and gradients; on a CPU those of CUDA by their definition."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lookright.attention import build_layout
from lookright.attention.kernels import CHOICES, KERNELS, check_kernel, prefix_kernel, use_prefix_kernel
from lookright.attention.layout import PackedLayout
from lookright.errors import ConfigError
from tests.compare import assert_close

SCALE = 0.3
LAYOUTS = {"one": ([300], [[3]]), "ragged": ([130, 2, 65], [[2, 7], [1], [0, 4]])}


def prefixes(layout: PackedLayout, num_heads: int, num_groups: int, trains: bool, **kind: object) -> list[list[Tensor]]:
    """Queries, keys and values of every group."""
    torch.manual_seed(0)
    return [
        [torch.randn(1, heads, length, 32, **kind).requires_grad_(trains) for length in layout.prefix_lengths]
        for heads in (num_heads, num_groups, num_groups)
    ]


def assert_same_as_sdpa(
    name: str,
    layout: PackedLayout,
    num_groups: int,
    tolerance: float,
    reason: str,
    trains: bool = True,
    **kind: object,
) -> None:
    """One kernel and the plain one on the same tensors."""
    parts = prefixes(layout, 4, num_groups, trains, **kind)
    leaves = [tensor for part in parts for tensor in part]
    found = KERNELS[name](*parts, SCALE, layout)
    wanted = KERNELS["sdpa"](*parts, SCALE, layout)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=tolerance, why=reason)
    if not found[0].requires_grad:
        return
    weights = [torch.randn_like(output) for output in wanted]
    gradients = [
        torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), leaves)
        for outputs in (found, wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, atol=tolerance, why=reason, name="gradients")


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_flex_on_the_cpu(layout: tuple, num_groups: int) -> None:
    """Values alone: PyTorch has no gradient of it there."""
    kind = {"dtype": torch.float64, "trains": False}
    assert_same_as_sdpa("flex", build_layout(*layout), num_groups, 1e-10, "float64, sums in another order", **kind)


def segments_one_by_one(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float) -> Tensor:
    """What a variable-length kernel computes, from the definition: causal within each segment of [N, H, D]."""
    outputs = []
    for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        q, k, v = (part[first:last].transpose(0, 1)[None] for part in (query, key, value))
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
        future = torch.ones(last - first, last - first, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(2, 3) * scale).masked_fill(future, float("-inf")).softmax(-1)
        outputs.append((weights @ v)[0].transpose(0, 1))
    return torch.cat(outputs)


def handed_segments(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, longest: int, last: int, scale: float
) -> Tensor:
    """The definition, where queries and keys have the same segments and the longest is told right."""
    assert starts is key_starts and starts.dtype == torch.int32
    assert longest == last == int(starts.diff().max())
    return segments_one_by_one(query, key, value, starts, scale)


def varlen_2_12(*tensors: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool = False) -> Tensor:
    assert window_size == (-1, 0) and enable_gqa == (tensors[0].shape[1] != tensors[1].shape[1])
    return handed_segments(*tensors, scale)


def varlen_2_11(*tensors: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
    assert window_size == (-1, 0) and tensors[0].shape == tensors[1].shape == tensors[2].shape
    return handed_segments(*tensors, scale)


@pytest.mark.parametrize("varlen_attn", [varlen_2_11, varlen_2_12])
@pytest.mark.parametrize("num_groups", [2, 4])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_varlen_is_handed(
    layout: tuple, num_groups: int, varlen_attn: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments, longest length and causality, with PyTorch's kernel replaced by its definition in either signature."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert_same_as_sdpa(
        "varlen", build_layout(*layout), num_groups, 1e-10, "float64, sums in another order", dtype=torch.float64
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_flash_attn_is_handed(layout: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_varlen_func(*tensors: Any, softmax_scale: float, causal: bool) -> Tensor:
        assert causal
        return handed_segments(*tensors, softmax_scale)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func))
    assert_same_as_sdpa(
        "flash_attn", build_layout(*layout), 2, 1e-10, "float64, sums in another order", dtype=torch.float64
    )


@pytest.mark.gpu
@pytest.mark.parametrize("num_groups", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["varlen", "flash_attn", "flex"])
def test_on_cuda(name: str, layout: tuple, num_groups: int) -> None:
    if name == "flash_attn":
        pytest.importorskip("flash_attn")
    placed = build_layout(*layout)
    placed.prefix_starts = placed.prefix_starts.cuda()
    assert_same_as_sdpa(name, placed, num_groups, 0.05, "bfloat16 has 8 bits", device="cuda", dtype=torch.bfloat16)


def test_a_cpu_takes_sdpa() -> None:
    assert prefix_kernel(torch.device("cpu"), torch.bfloat16) is KERNELS["sdpa"]
    assert prefix_kernel(torch.device("cpu"), torch.float32) is KERNELS["sdpa"]


@pytest.mark.parametrize(
    ("capability", "dtype", "flash", "name"),
    [
        ((9, 0), torch.bfloat16, True, "flash_attn"),
        ((8, 0), torch.float16, False, "varlen"),
        ((9, 0), torch.float32, True, "sdpa"),
        ((7, 5), torch.float16, True, "sdpa"),
    ],
)
def test_chosen_by_capability(
    capability: tuple, dtype: torch.dtype, flash: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("lookright.attention.kernels._has_flash_attn", lambda: flash)
    assert prefix_kernel(torch.device("cuda"), dtype) is KERNELS[name]


def test_a_kernel_that_is_set_is_taken() -> None:
    use_prefix_kernel("flex")
    try:
        assert prefix_kernel(torch.device("cpu"), torch.float32) is KERNELS["flex"]
    finally:
        use_prefix_kernel("auto")


def test_kernels_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=f"trainer.attention_kernel='fast'; valid: {', '.join(CHOICES)}"):
        check_kernel("fast")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="varlen needs a CUDA device"):
            check_kernel("varlen")


def test_the_slow_definition_agrees_with_sdpa() -> None:
    """So that the two stand-ins above are held against something real."""
    query, key, value = torch.randn(3, 12, 2, 8, dtype=torch.float64)
    found = segments_one_by_one(query, key, value, torch.tensor([0, 5, 12]), SCALE)
    for first, last in ((0, 5), (5, 12)):
        parts = (part[first:last].transpose(0, 1)[None] for part in (query, key, value))
        wanted = F.scaled_dot_product_attention(*parts, is_causal=True, scale=SCALE)[0].transpose(0, 1)
        assert_close(found[first:last], wanted, atol=1e-10, why="float64, sums in another order")
