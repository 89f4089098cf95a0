"""Attention of a few rows, read where attention is computed, and the share that a region gets of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.attention.layout import PackedLayout

TARGET, SOURCES = 0, 1
"""Columns of a coverage float[L, 2]: what the target region covers of each token, and what all regions together do.

Coverage is a matter of geometry alone; a mass is the attention that falls on it, sum of probability x coverage."""


class RowRecorder:
    """Collects, in chosen decoder layers, how much attention each suffix row gives to regions.

    `coverage`: float[T, C], what each of C regions covers of the row's tokens; what is recorded are masses, the
    head-averaged probabilities summed over tokens in proportion to it. None records the probabilities themselves,
    for heat maps. What is recorded carries gradient. Under gradient checkpointing a layer runs twice; the first
    recording is the one that counts.
    """

    def __init__(self, layers: Sequence[int], coverage: Tensor | None = None) -> None:
        self.layers = frozenset(layers)
        self.coverage = coverage
        self._masses: dict[int, list[Tensor]] = {layer: [] for layer in sorted(self.layers)}
        self._num_groups = 0

    def wants(self, layer: int) -> bool:
        """Whether the rows of decoder layer number `layer` (0-based) are wanted."""
        return layer in self.layers

    def expect(self, layout: PackedLayout) -> None:
        """Declare the row about to be computed."""
        self._num_groups = len(layout.groups)

    def record(self, layer: int, start: int, probabilities_HSK: Tensor) -> None:
        """Take float[H, S, K] of the group whose keys begin at row index `start`."""
        # a recomputation under checkpointing must save the same tensors as the first run, so it computes them too
        if self.coverage is None:
            masses = probabilities_HSK.mean(0)
        else:
            keys = probabilities_HSK.shape[-1]
            # the keys of a group are the row's tokens from its start on: [H, S, K] @ [K, C], then a mean over heads
            coverage_KC = self.coverage[start : start + keys].to(probabilities_HSK.dtype)
            masses = (probabilities_HSK @ coverage_KC).mean(0)
        if len(self._masses[layer]) < self._num_groups:
            self._masses[layer].append(masses)

    def masses(self) -> dict[int, list[Tensor]]:
        """For each layer, for each group: float[S, C], or float[S, K] where no coverage was given."""
        return self._masses

    def stacked(self) -> Tensor:
        """All layers and groups: float[num_layers, sum S, C]; needs a coverage."""
        assert self.coverage is not None, "rows of different length do not stack"
        return torch.stack([torch.cat(groups) for groups in self._masses.values()])


def attention_ratio(masses: Tensor, rows: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """Share of the attention on source images that falls on the target, per response: float[num_owners] in [0, 1].

    `masses`: float[num_layers, sum S, 2], the attention of each row on the target and on the union of all source
    images (columns `TARGET` and `SOURCES`); `rows`: int64[N], rows that predict response tokens; `owner`: int64[N],
    whose they are. A(region) is the mean over those rows (and heads), the ratio is taken per layer, then averaged
    over the layers. Padding, margins and labels are in neither part, so that a model that looks at the target alone
    has 1, whatever the pictures' aspect. An owner without rows or sources gets NaN, and no
    gradient. Source: MIA-DPO (arXiv 2410.17637), which divides by the attention on whole pictures, padding with it.
    """
    # sums and not means over an owner's rows: their number cancels in the ratio; [layers, N, 2] -> [layers, owners, 2]
    picked = masses[:, rows].float()
    summed = picked.new_zeros(masses.shape[0], num_owners, 2).index_add(1, owner, picked)
    on_sources = summed[..., SOURCES]
    known = on_sources > 0
    # 0 / 0 would be NaN in the gradients too, of whatever else is in the batch
    ratio = summed[..., TARGET] / torch.where(known, on_sources, 1.0)
    return ratio.masked_fill(~known, float("nan")).mean(0)


def even_ratio(coverage: Tensor) -> Tensor:
    """The attention ratio of an even look at all source tokens: float[..., L, 2] -> float[...], NaN without sources.

    It is the target's share of the covered token area: 1/n for n equal images.
    """
    summed = coverage.sum(-2)
    return summed[..., TARGET] / summed[..., SOURCES]
