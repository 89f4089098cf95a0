"""Plain data that the whole package speaks in. Nothing here computes."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of one picture; x1 and y1 are exclusive."""

Size = tuple[int, int]
"""Width and height in pixels, as PIL gives them."""

IMAGE_PLACEHOLDER = "<image>"
"""The one placeholder of a stored prompt, one for each picture, in order; a backbone has its own inside."""


@dataclass(slots=True, frozen=True, kw_only=True)
class SourceRow:
    """One single-image question with its ground truth; `picture` is a key that its source can open."""

    id: str
    picture: str
    question: str
    answer: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Region:
    """Where one source image lies: `box` in pixels of picture number `picture` (0-based) of the prompt."""

    picture: int
    box: Box
    source: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Footprint:
    """Pixels of a picture that one token sees.

    `box` is cut at the picture's edges; `share`, in (0, 1], is what it is of the token's own area: the rest of the
    token sees padding.
    """

    box: Box
    share: float

    @property
    def own_area(self) -> float:
        """Area of the whole token in square pixels of the picture, padding included."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]) / self.share


@dataclass(slots=True, frozen=True, kw_only=True)
class Prompt:
    """A composed multi-image question.

    `images` are paths relative to the folder of the file that holds the record; `target` is the 0-based index into
    `regions` of the source image that the question is about; `ground_truth` is the answer that is right; `provenance`
    holds source ids, seed and composer version. `target` and `regions` are None where the geometry of a file from
    elsewhere is unknown: then there is no attention ratio.
    """

    id: str
    images: list[str]
    prompt: str
    ground_truth: str
    format: str
    target: int | None
    regions: list[Region] | None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def num_sources(self) -> int:
        """Source images shown, whatever the number of pictures that hold them; the pictures where that is unknown."""
        return len(self.images) if self.regions is None else len(self.regions)


class Turn(NamedTuple):
    """An earlier question of a conversation, `<image>` for each picture that came with it, and what was answered."""

    question: str
    answer: str


@dataclass(slots=True, frozen=True, kw_only=True)
class FollowUp(Prompt):
    """A question after earlier turns, the first of them first; files hold none.

    `images`, `regions` and `target` are those of the whole conversation; `prompt` is the last question alone.
    """

    history: tuple[Turn, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class Preference:
    """A preference pair; `rejected` may hold several answers for one prompt (k >= 1).

    `target` and `regions` are None where the geometry is unknown; terms that need them refuse the record. `scores`
    are a rejected answer's, or a list of all of theirs where there are several.
    """

    id: str
    images: list[str]
    prompt: str
    chosen: str
    rejected: list[str]
    format: str | None = None
    target: int | None = None
    regions: list[Region] | None = None
    scores: dict[str, float] | dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def num_sources(self) -> int:
        """Source images shown; the pictures where no region is known."""
        return len(self.images) if self.regions is None else len(self.regions)
