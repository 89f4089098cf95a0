"""What a row of metrics.csv says of an optimiser step: means over its pairs, of all micro-batches and all ranks."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class StepMeans:
    """Collects values of pairs until the step is taken. `names` are all that may come, the same on every rank."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = sorted(names)
        self._parts: list[Mapping[str, Tensor]] = []

    @property
    def num_pairs(self) -> int:
        """Pairs of this rank so far."""
        return sum(len(part["loss"]) for part in self._parts)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Values of the pairs of one micro-batch, name -> float[P]; NaN is no value (no target, say)."""
        self._parts.append({name: value.detach() for name, value in values.items()})

    def clear(self) -> None:
        """Begin the next step."""
        self._parts = []

    def means(self, sum_over_ranks: Callable[[Tensor], Tensor] | None, device: torch.device) -> dict[str, Tensor]:
        """Means by name; nothing where no rank had a pair. All ranks call it together.

        `sum_over_ranks` adds up a tensor of all ranks, None where there is one.
        """
        if sum_over_ranks is None and len(self._parts) < 2:
            # as torch sums them: one batch is the whole step
            return {
                name: values.mean() if name == "loss" else values.nanmean()
                for part in self._parts
                for name, values in part.items()
            }
        # one rank knows what came; several have to agree on it
        came = sorted({name for part in self._parts for name in part})
        names = came if sum_over_ranks is None else self.names
        # [sums, counts] of every name
        totals = torch.zeros(2, len(names), dtype=torch.float64, device=device)
        for part in self._parts:
            for name, values in part.items():
                counted = values if name == "loss" else values[~values.isnan()]
                totals[0, names.index(name)] += counted.double().sum()
                totals[1, names.index(name)] += len(counted)
        if sum_over_ranks is not None:
            totals = sum_over_ranks(totals)
        if not totals[1, names.index("loss")]:
            return {}
        return dict(zip(names, (totals[0] / totals[1]).float(), strict=True))
