"""Exact attention over a packed row in two parts: fused causal for prefixes, explicit for the few suffix rows.

Shape letters: B batch (1), H query heads, G key/value heads, T row tokens, P prefix, S suffix, K = P + S, D head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.attention.kernels import prefix_kernel
from lookright.attention.layout import Group, PackedLayout
from lookright.attention.rows import RowRecorder


class PackedCall:
    """What one packed pass hands to every layer: the layout, and the recorder if rows are wanted.

    `layers` fills with the number of every layer whose attention it reached. Not a dataclass: FSDP copies those
    on their way in, and what layers note in a copy would be lost.
    """

    def __init__(self, *, layout: PackedLayout, recorder: RowRecorder | None = None) -> None:
        self.layout = layout
        self.recorder = recorder
        self.layers: set[int] = set()

    def wanted(self, layer: int) -> RowRecorder | None:
        """The recorder if it wants the rows of this layer."""
        return self.recorder if self.recorder is not None and self.recorder.wants(layer) else None


def packed_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int, call: PackedCall) -> Tensor:
    """All rows: float[B, H, T, D], keys and values float[B, G, T, D] -> float[B, T, H, D]."""
    call.layers.add(layer)
    groups = call.layout.groups
    # queries of prefix 0, suffix 0, prefix 1, suffix 1 ...: [B, H, P, D] and [B, H, S, D] in turn
    # split and not sliced: the gradient of many slices is many row-sized sums, that of a split is one copy
    rows = query.split([size for group in groups for size in (group.num_prefix, group.num_suffix)], dim=2)
    # keys and values of each group whole, [B, G, P + S, D]: its suffix looks at both parts
    keys, values = (part.split([group.num_tokens for group in groups], dim=2) for part in (key, value))
    kernel = prefix_kernel(query.device, query.dtype)
    prefixes = kernel(rows[::2], _prefixes(keys, groups), _prefixes(values, groups), scaling, call.layout)
    # back into the order of the row: every prefix [B, P, H, D] is followed by its suffix [B, S, H, D]
    parts = []
    for number, prefix in enumerate(prefixes):
        suffix = rows[2 * number + 1][0]
        parts += [prefix, _suffix_rows(suffix, keys[number], values[number], scaling, number, layer, call)]
    return torch.cat(parts, dim=1)


def suffix_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int, call: PackedCall) -> Tensor:
    """Suffix rows only: query float[B, H, sum S, D], keys and values of the whole row -> float[B, sum S, H, D]."""
    call.layers.add(layer)
    groups = call.layout.groups
    rows = query.split([group.num_suffix for group in groups], dim=2)
    keys, values = (part.split([group.num_tokens for group in groups], dim=2) for part in (key, value))
    parts = [
        _suffix_rows(rows[number][0], keys[number], values[number], scaling, number, layer, call)
        for number in range(len(groups))
    ]
    return torch.cat(parts, dim=1)


def _prefixes(parts: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """The prefix tokens of each group: [B, G, P + S, D] -> [B, G, P, D]."""
    return [
        part.split([group.num_prefix, group.num_suffix], dim=2)[0] for part, group in zip(parts, groups, strict=True)
    ]


def _suffix_rows(
    rows_HSD: Tensor, key: Tensor, value: Tensor, scaling: float, number: int, layer: int, call: PackedCall
) -> Tensor:
    """Suffix rows of group `number` against its prefix and what they may see of the suffix: float[B, S, H, D].

    The same probabilities give the output and, where wanted, the recorded rows.
    """
    group, visible = call.layout.groups[number], call.layout.visible[number]
    num_heads, num_suffix, width = rows_HSD.shape
    key_GKD, value_GKD = key[0], value[0]
    num_key_heads, num_keys = key_GKD.shape[0], key_GKD.shape[1]
    # [S, K]: nothing of the prefix is barred; of the suffix, what a row may not see gets minus infinity
    bias_SK = torch.zeros(num_suffix, num_keys, dtype=rows_HSD.dtype, device=rows_HSD.device)
    bias_SK[:, group.num_prefix :].masked_fill_(~visible, float("-inf"))
    # query heads that share a key head lie side by side: stacked as rows, [G, H/G * S, D], they need no repeated keys
    stacked = rows_HSD.reshape(num_key_heads, -1, width)
    bias = bias_SK.repeat(num_heads // num_key_heads, 1).expand(num_key_heads, -1, -1)
    # [G, H/G * S, K] = bias + scaling * rows @ keys in one product; the softmax is at least float32 wide
    scores = torch.baddbmm(bias, stacked, key_GKD.transpose(1, 2), alpha=scaling)
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    recorder = call.wanted(layer)
    if recorder is not None:
        # the same memory read as [H, S, K], since stacking kept the order of heads
        recorder.record(layer, group.start, probabilities.view(num_heads, num_suffix, num_keys))
    output = torch.bmm(probabilities.to(value_GKD.dtype), value_GKD)
    # [G, H/G * S, D] -> [H, S, D] -> [B, S, H, D]
    return output.view(num_heads, num_suffix, -1).transpose(0, 1)[None]
