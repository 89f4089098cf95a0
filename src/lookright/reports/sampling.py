"""Which examples a gallery shows: few, drawn the same way every time, spread over all outcomes."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from lookright.common.hashing import stable_hash

Item = TypeVar("Item")


class StratifiedSample(Generic[Item]):
    """Holds at most `limit` items for each group, whatever streams through, by the lowest hash of their ids."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._groups: dict[Hashable, list[tuple[int, str, Item]]] = {}

    def add(self, group: Hashable, item_id: str, item: Item) -> None:
        """One item of the stream; ids differ."""
        rank = stable_hash(item_id)
        heap = self._groups.setdefault(group, [])
        # The heap is by falling rank: its first is the one to give way.
        if len(heap) < self.limit:
            heapq.heappush(heap, (-rank, item_id, item))
        elif self.limit and -rank > heap[0][0]:
            heapq.heapreplace(heap, (-rank, item_id, item))

    def take(self) -> list[Item]:
        """At most `limit` items, one of each group in turn, in the order of groups and then of draw.

        Where there are fewer places than groups, the groups whose first item was drawn first have them.
        """
        ranked = {group: sorted(heap, key=lambda entry: -entry[0]) for group, heap in self._groups.items() if heap}
        shares = dict.fromkeys(sorted(ranked, key=lambda group: -ranked[group][0][0]), 0)
        left = self.limit
        while left and any(shares[group] < len(ranked[group]) for group in shares):
            for group in shares:
                if left and shares[group] < len(ranked[group]):
                    shares[group] += 1
                    left -= 1
        return [entry[2] for group in sorted(ranked, key=str) for entry in ranked[group][: shares[group]]]
