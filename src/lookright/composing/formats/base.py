"""What every composer answers, and the checks that all of them share."""

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from PIL import Image

from lookright.errors import ConfigError
from lookright.types import Region, SourceRow

OpenPicture = Callable[[SourceRow], Image.Image]
Name = TypeVar("Name", int, str)

_NUMBER = r"\s*-?\d*\.?\d+\s*"
_BOUNDING_BOX = re.compile(rf"\[{_NUMBER}(?:,{_NUMBER}){{3}}\]")


@dataclass(slots=True, frozen=True, kw_only=True)
class Composed:
    """A composed prompt before it is stored.

    `regions` follow the numbers that the prompt gives to the source images; their boxes are exact, in
    pixels of `pictures`. `target` is a 0-based index into them. `facts` go into the provenance.
    """

    pictures: list[Image.Image]
    prompt: str
    target: int
    regions: list[Region]
    facts: dict[str, Any] = field(default_factory=dict)


class Composer(ABC):
    """One multi-image format, whose title in reports is its name in words.

    `mixture` gives the weight of each number of source images; the weights need not add up to anything.
    Raises ConfigError for a number that the format cannot show.
    """

    name: ClassVar[str]
    counts: ClassVar[tuple[int, ...]]
    """Numbers of source images that this format can show."""
    composer_version: ClassVar[int]
    """Goes up whenever the same seed gives another prompt or other pixels."""
    default_mixture: ClassVar[Mapping[int, float]]
    weight: ClassVar[float | None] = None
    """Its share beside other formats where a config sets no `weights`; None: they must be set."""
    thresholds: ClassVar[float | Mapping[int, float] | None] = None
    """Attention ratio below which an answer is kept, one or by number of source images; None: a config must set it."""
    inclusive: ClassVar[bool] = False
    """Whether a ratio equal to the threshold is kept too."""

    def __init__(self, mixture: Mapping[int, float] | None = None) -> None:
        chosen = dict(self.default_mixture if mixture is None else mixture)
        self.mixture = normalised_mixture(chosen, self.counts, f"composers.{self.name}.mixture")

    def draw_count(self, rng: random.Random) -> int:
        """A number of source images, the target included."""
        return rng.choices(list(self.mixture), list(self.mixture.values()))[0]

    def accepts(self, row: SourceRow) -> bool:
        """Whether the row can be the target of this format."""
        del row
        return True

    @abstractmethod
    def compose(
        self, target: SourceRow, companions: Sequence[SourceRow], open_picture: OpenPicture, rng: random.Random
    ) -> Composed:
        """One prompt about `target` among `companions`. Raises ValueError for a number that `counts` lacks."""

    def arrange(
        self, target: SourceRow, companions: Sequence[SourceRow], rng: random.Random
    ) -> tuple[list[SourceRow], int]:
        """All rows with the target at a drawn place, and that place."""
        rows = list(companions)
        if len(rows) + 1 not in self.counts:
            raise ValueError(f"{self.name} shows {self.counts} images, not {len(rows) + 1}")
        if len({row.picture for row in rows} | {target.picture}) != len(rows) + 1:
            raise ValueError(f"{self.name}: a picture comes twice in the prompt about {target.id}")
        place = rng.randrange(len(rows) + 1)
        rows.insert(place, target)
        return rows, place


def normalised_mixture(mixture: Mapping[Name, float], counts: Sequence[Name], key: str) -> dict[Name, float]:
    """Weights that add up to 1, without the zeros. Raises ConfigError naming `key`."""
    unknown = [count for count in mixture if count not in counts]
    if unknown:
        raise ConfigError(f"{key} has no use for {unknown[0]!r}; valid are {', '.join(map(str, counts))}")
    negative = [count for count, weight in mixture.items() if not 0 <= weight < float("inf")]
    if negative:
        raise ConfigError(f"{key}[{negative[0]}]={mixture[negative[0]]}: a weight is a finite number >= 0")
    total = sum(mixture.values())
    if not total:
        raise ConfigError(f"{key}={dict(mixture)}: at least one weight must be above 0")
    return {count: weight / total for count, weight in mixture.items() if weight}


def has_bounding_box(text: str) -> bool:
    """Whether the text holds four numbers in brackets, as in `[0.1, 0.2, 0.5, 0.9]`."""
    return _BOUNDING_BOX.search(text) is not None


def without_bounding_box(row: SourceRow) -> bool:
    """Whether the row stays true when its picture is moved inside another one."""
    return not has_bounding_box(row.question) and not has_bounding_box(row.answer)


def lower_first(text: str) -> str:
    """The text with its first letter in lower case, to follow a comma."""
    return text[:1].lower() + text[1:]


def whole_picture(number: int, image: Image.Image, row: SourceRow) -> Region:
    """The region of a row that fills picture `number`."""
    return Region(picture=number, box=(0, 0, image.width, image.height), source=row.id)
