"""Which prompts are made: a pure function of seed and number, so any sharding gives the same union."""

import random
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lookright.common.files import naming
from lookright.common.hashing import stable_hash
from lookright.composing.companions import CompanionDrawer, RandomCompanions
from lookright.composing.formats.base import Composer, normalised_mixture
from lookright.composing.sources.base import Source, Split
from lookright.errors import ConfigError, RecordError
from lookright.types import Prompt, SourceRow

PNG_LEVEL = 1
"""Fast compression; the pixels are exact at any level."""


@dataclass(slots=True, frozen=True, kw_only=True)
class PromptPlan:
    """Everything that decides a prompt, before any picture is opened."""

    number: int
    id: str
    composer: Composer
    target: SourceRow
    companions: list[SourceRow]
    compose_seed: int
    provenance: dict[str, Any]


class PromptPlanner:
    """Plans of prompt 0, 1, 2, ... over one split of a source.

    Plan `number` depends on the seed, the source, the composers and the number alone. Targets come from
    a seeded permutation of the rows, so none comes twice before all came once. `weights` of the formats
    are relative (default: their own, thousands of final pairs for LLaVA-1.5 in AA-DPO; single images are our
    control). Raises ConfigError.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        composers: Sequence[Composer],
        drawer: CompanionDrawer | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._source, self._split, self._seed = source, split, seed
        self._rows = source.rows(split)
        self._composers = {composer.name: composer for composer in composers}
        if not self._rows or not composers:
            raise ConfigError(
                f"source={source.name}, split={split}: {len(self._rows)} rows and {len(composers)} formats"
            )
        self._weights = format_weights(composers, weights)
        self._drawer = RandomCompanions(source, split) if drawer is None else drawer
        self._order = lru_cache(maxsize=2)(self._permutation)
        self.skipped: Counter[str] = Counter()

    def plan(self, number: int) -> PromptPlan:
        """Plan of one number. Raises RecordError (reason `bounding_box` or `few_companions`) where there is none."""
        rng = random.Random(self._hash("draw", number))
        composer = self._composers[rng.choices(list(self._weights), list(self._weights.values()))[0]]
        count = composer.draw_count(rng)
        lap, place = divmod(number, len(self._rows))
        target = self._rows[self._order(lap)[place]]
        if not composer.accepts(target):
            raise RecordError(
                "bounding_box", f"row {target.id}: its text holds a bounding box, {composer.name} moves pictures"
            )
        drawn = self._drawer.draw(target, count - 1, rng)
        rows = [target, *drawn.rows]
        shown = stable_hash("\n".join(row.id for row in rows), 4)
        stem = f"{self._source.name}-{self._split}-{composer.name}-s{self._seed}-{number:06d}-{shown:08x}"
        return PromptPlan(
            number=number,
            id=re.sub(r"[^A-Za-z0-9._-]", "_", stem),
            composer=composer,
            target=target,
            companions=drawn.rows,
            compose_seed=self._hash("compose", number),
            provenance={
                "source": self._source.name,
                "split": self._split,
                "source_id": target.id,
                "source_picture": target.picture,
                "seed": self._seed,
                "number": number,
                "companions": self._drawer.rule,
                "companions_within": self._drawer.within,
                "random_companions": drawn.num_filled,
                "source_answers": dict(zip((row.id for row in rows), self._drawer.answers(target, rows), strict=True)),
            },
        )

    def plans(self, count: int, shard_index: int = 0, shard_count: int = 1) -> Iterator[PromptPlan]:
        """Plans of the numbers below `count` that fall on this shard; those that do not exist count in `skipped`."""
        if shard_count < 1 or not 0 <= shard_index < shard_count:
            raise ConfigError(f"shard.index={shard_index}, shard.count={shard_count}: an index is 0 to count - 1")
        for number in range(shard_index, count, shard_count):
            try:
                yield self.plan(number)
            except RecordError as error:
                self.skipped[error.reason] += 1

    def _permutation(self, lap: int) -> "array[int]":
        order = array("L", range(len(self._rows)))
        random.Random(self._hash("order", lap)).shuffle(order)
        return order

    def _hash(self, purpose: str, number: int) -> int:
        return stable_hash(f"{purpose}/{self._source.name}/{self._split}/{self._seed}/{number}")


def format_weights(composers: Sequence[Composer], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return shares that add up to 1: those of a config, else the formats' own. Raises ConfigError."""
    names = [composer.name for composer in composers]
    if weights is None:
        own = {composer.name: composer.weight for composer in composers}
        unknown = [name for name, weight in own.items() if weight is None]
        if unknown and len(names) > 1:
            raise ConfigError(
                f"weights is null, and the format {unknown[0]} has no share of its own beside others; "
                f"set weights={{{', '.join(f'{name}: {weight or 1}' for name, weight in own.items())}}} or the like"
            )
        weights = {name: 1.0 if weight is None else weight for name, weight in own.items()}
    return normalised_mixture(dict(weights), names, "weights")


def compose_plan(plan: PromptPlan, source: Source, folder: Path) -> Prompt:
    """Write the pictures as `<folder>/images/<id>_<n>.png` and return the record, its paths relative to `folder`.

    Raises RecordError (reason `picture`) where the source cannot open one.
    """
    composed = plan.composer.compose(plan.target, plan.companions, source.open, random.Random(plan.compose_seed))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = [f"images/{plan.id}_{number}.png" for number in range(len(composed.pictures))]
    for name, picture in zip(images, composed.pictures, strict=True):
        with naming(folder / name):
            picture.save(folder / name, compress_level=PNG_LEVEL)
    answers = plan.provenance["source_answers"]
    facts = {
        "composer_version": plan.composer.composer_version,
        "region_answers": [answers[region.source] for region in composed.regions],
        **composed.facts,
    }
    kept = {key: value for key, value in plan.provenance.items() if key != "source_answers"}
    return Prompt(
        id=plan.id,
        images=images,
        prompt=composed.prompt,
        ground_truth=plan.target.answer,
        format=plan.composer.name,
        target=composed.target,
        regions=composed.regions,
        provenance=kept | facts,
    )
