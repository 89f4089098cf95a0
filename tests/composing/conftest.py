"""A source whose pictures are plain colours of given sizes, so that every pixel is known."""

from collections.abc import Sequence

import pytest
from PIL import Image

from lookright.composing.sources.base import Source, Split
from lookright.types import Size, SourceRow

COLOURS = [
    (255, 0, 0),
    (0, 160, 0),
    (0, 0, 255),
    (200, 200, 0),
    (0, 180, 180),
    (180, 0, 180),
    (90, 90, 90),
    (250, 120, 0),
]


class PaintedSource(Source):
    """Rows with given answers to given questions; `sizes` and colours repeat over the pictures."""

    name = "painted"

    def __init__(self, asked: Sequence[tuple[str, str, str]], sizes: Sequence[Size] = ((40, 30),)) -> None:
        self._asked, self._sizes = list(asked), list(sizes)

    def rows(self, split: Split) -> list[SourceRow]:
        return [
            SourceRow(id=f"painted/{split}/{n}", picture=f"{split}/{picture}", question=question, answer=answer)
            for n, (picture, question, answer) in enumerate(self._asked)
        ]

    def open(self, row: SourceRow) -> Image.Image:
        number = int(row.picture.split("/")[1])
        return Image.new("RGB", self._sizes[number % len(self._sizes)], self.colour(row))

    def colour(self, row: SourceRow) -> tuple[int, int, int]:
        return COLOURS[int(row.picture.split("/")[1]) % len(COLOURS)]


@pytest.fixture
def painted() -> type[PaintedSource]:
    return PaintedSource


@pytest.fixture
def ten_pictures() -> PaintedSource:
    """Ten pictures, one question each, sizes wide, high, square and tiny."""
    asked = [(str(n), "What is shown?", f"thing {n}") for n in range(10)]
    return PaintedSource(asked, sizes=[(80, 40), (30, 90), (50, 50), (7, 5)])
