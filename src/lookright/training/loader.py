"""Loaders: one whose place is kept by the data module, and one that carries on where a record cannot be encoded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lookright.packing.batch import Example, PackedBatch, empty_batch, pack


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


def collate_pairs(items: Sequence[Example | LeftOut]) -> CollatedPairs:
    """Pack the examples among the items."""
    examples = [item for item in items if isinstance(item, Example)]
    return CollatedPairs(
        batch=pack(examples) if examples else empty_batch(),
        left_out=[item for item in items if isinstance(item, LeftOut)],
    )
