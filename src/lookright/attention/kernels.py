"""Causal attention of the prefixes of a packed row: fused kernels behind one signature, chosen by what is there.

Shape letters: B batch (1), H query heads, G key/value heads, P tokens of one prefix, N of all prefixes, D head.
"""

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lookright.attention.layout import PackedLayout
from lookright.errors import ConfigError

PrefixKernel = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], float, PackedLayout], list[Tensor]]
"""Queries float[B, H, P, D], keys and values float[B, G, P, D] of every group -> float[B, P, H, D] of every group."""

HALF = (torch.float16, torch.bfloat16)
AMPERE = (8, 0)


def sdpa_prefixes(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scaling: float, layout: PackedLayout
) -> list[Tensor]:
    """One fused causal call a prefix, without any mask: every device, every type."""
    del layout
    return [
        F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        ).transpose(1, 2)
        for query, key, value in zip(queries, keys, values, strict=True)
    ]


def varlen_prefixes(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scaling: float, layout: PackedLayout
) -> list[Tensor]:
    """All prefixes in one launch of PyTorch's variable-length attention; CUDA, 16 bits."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (_joined(parts) for parts in (queries, keys, values))
    starts, longest = layout.prefix_starts, max(layout.prefix_lengths)
    shared: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            shared["enable_gqa"] = True
        else:  # torch 2.11
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    # a tensor alone, since no log-sum-exp is asked for
    output: Any = varlen_attn(
        query,
        key,
        value,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        **shared,
    )
    return _parted(output, layout)


def flash_prefixes(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scaling: float, layout: PackedLayout
) -> list[Tensor]:
    """All prefixes in one launch of the package flash-attn; CUDA, 16 bits."""
    from flash_attn import flash_attn_varlen_func

    starts, longest = layout.prefix_starts, max(layout.prefix_lengths)
    query, key, value = (_joined(parts) for parts in (queries, keys, values))
    output = flash_attn_varlen_func(
        query, key, value, starts, starts, longest, longest, softmax_scale=scaling, causal=True
    )
    return _parted(output, layout)


def flex_prefixes(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scaling: float, layout: PackedLayout
) -> list[Tensor]:
    """All prefixes in one FlexAttention with a block mask; compiled on CUDA, the plain definition on a CPU."""
    query, key, value = (torch.cat(list(parts), dim=2) for parts in (queries, keys, values))
    mask = _block_mask(tuple(layout.prefix_lengths), query.device)
    attend = _flex(query.device.type)
    output = attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return list(output.transpose(1, 2).split(layout.prefix_lengths, dim=1))


KERNELS: dict[str, PrefixKernel] = {
    "sdpa": sdpa_prefixes,
    "varlen": varlen_prefixes,
    "flash_attn": flash_prefixes,
    "flex": flex_prefixes,
}
CHOICES = ("auto", *KERNELS)
_chosen = "auto"


def use_prefix_kernel(name: str) -> None:
    """Set what every packed pass of this process takes. Raises ConfigError for an unknown or missing kernel."""
    global _chosen
    check_kernel(name)
    _chosen = name


def check_kernel(name: str, key: str = "trainer.attention_kernel") -> None:
    """Raise ConfigError naming `key` where a kernel is unknown or this machine lacks it."""
    if name not in CHOICES:
        raise ConfigError(f"{key}={name!r}; valid: {', '.join(CHOICES)}")
    if name == "flash_attn" and not _has_flash_attn():
        raise ConfigError(f"{key}=flash_attn needs the package flash-attn, which is not installed; set auto")
    if name in ("varlen", "flash_attn") and not torch.cuda.is_available():
        raise ConfigError(f"{key}={name} needs a CUDA device and none is visible; set auto")


def prefix_kernel(device: torch.device, dtype: torch.dtype) -> PrefixKernel:
    """The kernel for tensors of this kind: what was set, else the fastest that can do it."""
    return KERNELS[_fastest(device, dtype) if _chosen == "auto" else _chosen]


def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    """flash-attn or PyTorch's variable-length attention where the card and the type allow, else SDPA."""
    if device.type != "cuda" or dtype not in HALF or torch.cuda.get_device_capability(device) < AMPERE:
        return "sdpa"
    if _has_flash_attn():
        return "flash_attn"
    return "varlen" if importlib.util.find_spec("torch.nn.attention.varlen") is not None else "sdpa"


@cache
def _has_flash_attn() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Prefixes one after the other without the batch: [B, H, P, D] each -> [N, H, D]."""
    return torch.cat([part[0] for part in parts], dim=1).transpose(0, 1)


def _parted(output: Tensor, layout: PackedLayout) -> list[Tensor]:
    """The inverse, in the order of the output: [N, H, D] -> [B, P, H, D] each."""
    return [part[None] for part in output.split(layout.prefix_lengths)]


@lru_cache(maxsize=8)
def _block_mask(lengths: tuple[int, ...], device: torch.device) -> object:
    """Causal within each prefix; the same lengths come in every layer of a pass."""
    from torch.nn.attention.flex_attention import create_block_mask

    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)

    def visible(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        del batch, head
        return (owner[row] == owner[column]) & (column <= row)

    return create_block_mask(visible, None, None, len(owner), len(owner), device=device)


@cache
def _flex(device_type: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    attention: Callable[..., Any] = flex_attention
    return torch.compile(attention, dynamic=True) if device_type == "cuda" else attention
