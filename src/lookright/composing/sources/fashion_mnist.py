"""Product photographs: a balanced slice of Fashion-MNIST in the package, see `assets/fashion_mnist/NOTICE`."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from lookright.common.hashing import stable_hash
from lookright.common.pictures import open_rgb
from lookright.composing.sources.base import Source, Split, check_split
from lookright.errors import ConfigError
from lookright.types import SourceRow

CLASS_NAMES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""In the order of the data set's labels."""

ASSETS = Path(__file__).parent / "assets" / "fashion_mnist"
"""Two sheets, cut from the original files by `recipes/tiny/fashion_mnist_slice.py`."""
SIDE = 28
NUM_CLASSES = 10
SHEET_ROWS = 5
"""Rows of a sheet that hold one class."""
PER_CLASS = {"train": 200, "test": 100}

PHRASINGS = (
    "What product is shown?",
    "Which fashion item is this?",
    "What kind of clothing or accessory do you see?",
    "Name the item in the picture.",
    "What would a shop call this article?",
    "Which type of garment, shoe or bag is pictured?",
)


class FashionMnist(Source):
    """2,000 train and 1,000 test pictures of 28 x 28 pixels, 10 classes in equal number.

    A picture gives `questions_per_picture` rows (1 to 6), each in another phrasing; the first is drawn
    by a hash of the picture's key, so it never changes. All phrasings ask the same thing.
    """

    name = "fashion_mnist"

    def __init__(self, questions_per_picture: int = 1) -> None:
        if not 1 <= questions_per_picture <= len(PHRASINGS):
            raise ConfigError(
                f"source.questions_per_picture={questions_per_picture}: there are {len(PHRASINGS)} phrasings, "
                f"set 1 to {len(PHRASINGS)}"
            )
        self.questions_per_picture = questions_per_picture

    def rows(self, split: Split) -> Sequence[SourceRow]:
        """Class after class; ids read `fashion_mnist/<split>/<picture>-<n-th question of it>`."""
        check_split(split)
        numbers = range(NUM_CLASSES * PER_CLASS[split])
        return [self._row(split, number, nth) for number in numbers for nth in range(self.questions_per_picture)]

    def open(self, row: SourceRow) -> Image.Image:
        """Picture `<split>/<number>` from its sheet."""
        split, number = row.picture.split("/")
        left, top = cell_corner(split, int(number))
        return _sheet(split).crop((left, top, left + SIDE, top + SIDE))

    def question_key(self, row: SourceRow) -> str:
        """One key: every row asks for the class."""
        return "class"

    def _row(self, split: Split, number: int, nth: int) -> SourceRow:
        picture = f"{split}/{number}"
        question = PHRASINGS[(stable_hash(picture) + nth) % len(PHRASINGS)]
        answer = CLASS_NAMES[number // PER_CLASS[split]]
        return SourceRow(id=f"{self.name}/{picture}-{nth}", picture=picture, question=question, answer=answer)


def cell_corner(split: str, number: int) -> tuple[int, int]:
    """Left upper corner in pixels of picture `number` (0-based, classes one after the other) on its sheet."""
    row, column = divmod(number, PER_CLASS[split] // SHEET_ROWS)
    return column * SIDE, row * SIDE


@lru_cache(maxsize=2)
def _sheet(split: str) -> Image.Image:
    return open_rgb(ASSETS / f"{split}.png", "source=fashion_mnist")
