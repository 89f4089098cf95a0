"""The control: as many pairs, drawn without looking at attention."""

import logging
from collections import defaultdict

from lookright.common.hashing import stable_hash
from lookright.errors import ConfigError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate, Selection

log = logging.getLogger(__name__)

Cell = tuple[str, int]
"""Format and number of source images."""
Rank = tuple[int, str]
"""Hash and id: a total order that depends on nothing else."""


class RandomSelection(Selection):
    """Draws wrong answers by a hash of seed and id, so order, workers and shards do not matter.

    Exactly one of three says how many: `match` draws in each format and number of images as many as that
    attention rule keeps there; `count` draws so many in each; `share` in (0, 1] keeps an id whose hash
    falls into that share, so the count is near share times the candidates, and no first pass is needed.
    `match` and `count` are exact and must see all candidates of all shards first.
    """

    reasons = ("not_drawn",)

    def __init__(
        self,
        seed: int = 0,
        match: AttentionSelection | None = None,
        share: float | None = None,
        count: int | None = None,
    ) -> None:
        given = {
            name: value for name, value in (("match", match), ("share", share), ("count", count)) if value is not None
        }
        if len(given) != 1:
            raise ConfigError(
                f"selection=random: {' and '.join(given) or 'nothing'} given; set exactly one of "
                "selection.match, selection.share, selection.count"
            )
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"selection.share={share!r} is out of range; set a number in (0, 1]")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ConfigError(f"selection.count={count!r} is out of range; set a whole number >= 1")
        self.seed, self.match, self.share, self.count = seed, match, share, count
        self.needs_attention = match is not None
        self.needs_companions = match is not None and match.needs_companions
        self.needs_prepare = share is None
        self._ranks: dict[Cell, list[Rank]] = defaultdict(list)
        self._wanted: dict[Cell, int] = defaultdict(int)
        self._cutoffs: dict[Cell, Rank | None] = {}

    def rank(self, candidate_id: str) -> Rank:
        """64 bits of a hash of seed and id, then the id."""
        return stable_hash(f"{self.seed}\0{candidate_id}"), candidate_id

    def see(self, candidate: Candidate) -> None:
        """Note a candidate that may be drawn: one hash and its id are kept."""
        if self.share is not None:
            return
        cell = (candidate.format, candidate.num_sources)
        self._ranks[cell].append(self.rank(candidate.id))
        self._cutoffs.clear()
        if self.match is not None:
            self._wanted[cell] += self.match.keeps(candidate)

    def keeps(self, candidate: Candidate) -> bool:
        """Whether the id is among those drawn."""
        rank = self.rank(candidate.id)
        if self.share is not None:
            return rank[0] < self.share * 2**64
        cutoff = self._cutoff((candidate.format, candidate.num_sources))
        return cutoff is not None and rank <= cutoff

    def _cutoff(self, cell: Cell) -> Rank | None:
        """The last rank that is drawn in a cell."""
        if cell not in self._cutoffs:
            ranks = sorted(set(self._ranks.get(cell, ())))
            wanted = self._wanted[cell] if self.count is None else self.count
            if wanted > len(ranks):
                log.warning(
                    "random selection wants %d pairs of %s with %d images, there are %d", wanted, *cell, len(ranks)
                )
            self._cutoffs[cell] = ranks[: max(wanted, 0)][-1] if ranks and wanted else None
        return self._cutoffs[cell]
