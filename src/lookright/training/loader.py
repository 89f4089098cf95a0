"""Loaders: one whose place is kept by the data module, and one that carries on where a record cannot be encoded."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, Dataset

from lookright.packing.batch import Example, PackedBatch, empty_batch, pack, pinned

MOST_WORKERS = 4
"""A step of a 7B model takes longer than four processes need for its pictures."""


class ResumableLoader(DataLoader[Any]):
    """Lightning warns where a run goes on with a loader that keeps no state; here the data module keeps it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""


@dataclass(slots=True, frozen=True, kw_only=True)
class LeftOut:
    """A record that is not in its batch, since its picture broke after it was checked."""

    id: str
    reason: str
    message: str


@dataclass(slots=True, kw_only=True)
class CollatedPairs:
    """What a worker process sends: a batch, and the records that are missing in it."""

    batch: PackedBatch
    left_out: list[LeftOut]

    def pin_memory(self) -> "CollatedPairs":
        """With the batch in pinned memory, from which a GPU copies while it works; loaders ask for this by its name."""
        return replace(self, batch=pinned(self.batch))


class PairLoader(ResumableLoader):
    """Packed batches of a dataset whose items are examples, or `LeftOut` in their place.

    A batch of which nothing is left comes too, empty, so that the ranks of a run keep step. `note` is called in the
    process that takes the batches, before the batch is given out, for each record that was left out of it.
    """

    def __init__(self, dataset: Dataset[Any], note: Callable[[LeftOut], None], **options: Any) -> None:
        super().__init__(dataset, collate_fn=collate_pairs, **options)
        self._note = note

    def __iter__(self) -> Iterator[PackedBatch]:
        for collated in super().__iter__():
            for item in collated.left_out:
                self._note(item)
            yield collated.batch


def workers_of(device: torch.device, num_ranks: int) -> int:
    """Processes that read pictures for a rank on `device`: none beside a CPU that has no time left, else up to
    `MOST_WORKERS` as the processors of this process allow, which `num_ranks` share and each rank itself needs one of.
    """
    if device.type == "cpu":
        return 0
    return max(0, min(MOST_WORKERS, len(os.sched_getaffinity(0)) // num_ranks - 1))


def sharing_ranks(trainer: Trainer | None) -> int:
    """Ranks that were given the same processors: those that this run started itself; a cluster gives each its own."""
    if trainer is None:
        return 1
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return 1 if isinstance(environment, SLURMEnvironment) else trainer.num_devices


def collate_pairs(items: Sequence[Example | LeftOut]) -> CollatedPairs:
    """Pack the examples among the items."""
    examples = [item for item in items if isinstance(item, Example)]
    return CollatedPairs(
        batch=pack(examples) if examples else empty_batch(),
        left_out=[item for item in items if isinstance(item, LeftOut)],
    )
