"""The data set inside the package `easy_vqa`: 5,000 drawn shapes, 48,248 questions, its own two splits."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from lookright.common.pictures import open_rgb
from lookright.composing.sources.base import Source, Split, check_split
from lookright.errors import ConfigError
from lookright.types import SourceRow


class EasyVqa(Source):
    """Rows of easy-VQA (MIT licence): 38,575 train and 9,673 test questions on pictures of 64 x 64 pixels.

    Without `yes_no` the questions that are answered yes or no are left out: a wrong answer to one is the
    other answer, whichever picture the model looked at.
    """

    name = "easy_vqa"

    def __init__(self, yes_no: bool = True) -> None:
        self.yes_no = yes_no

    def rows(self, split: Split) -> Sequence[SourceRow]:
        """Questions in the order of the package's file; ids read `easy_vqa/<split>/<picture>-<n-th question of it>`."""
        check_split(split)
        rows = _read(self.name, split)
        return rows if self.yes_no else tuple(row for row in rows if row.answer not in ("yes", "no"))

    def open(self, row: SourceRow) -> Image.Image:
        """Picture `<split>/<number>` from the package's folder."""
        split, number = row.picture.split("/")
        return open_rgb(_data_folder() / split / "images" / f"{number}.png", f"row {row.id}")


def _data_folder() -> Path:
    try:
        import easy_vqa
    except ImportError as error:
        raise ConfigError("source=easy_vqa needs the package easy_vqa: pip install easy_vqa") from error
    return Path(easy_vqa.__file__).parent / "data"


@lru_cache(maxsize=2)
def _read(name: str, split: Split) -> tuple[SourceRow, ...]:
    _data_folder()
    import easy_vqa

    read = easy_vqa.get_train_questions if split == "train" else easy_vqa.get_test_questions
    asked: Counter[int] = Counter()
    rows = []
    for question, answer, number in zip(*read(), strict=True):
        row_id = f"{name}/{split}/{number}-{asked[number]}"
        rows.append(SourceRow(id=row_id, picture=f"{split}/{number}", question=question, answer=answer))
        asked[number] += 1
    return tuple(rows)
