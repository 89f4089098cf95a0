"""What every source of single-image questions answers."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, get_args

from PIL import Image

from lookright.errors import ConfigError
from lookright.types import SourceRow

Split = Literal["train", "test"]


class Source(ABC):
    """Single-image questions in two splits that share no picture.

    A row's id is unique over the whole source and names its split; its `picture` key is unique in
    the same way, so two rows show the same picture exactly where their keys are equal.
    """

    name: str

    @abstractmethod
    def rows(self, split: Split) -> Sequence[SourceRow]:
        """All rows of one split, always in the same order."""

    @abstractmethod
    def open(self, row: SourceRow) -> Image.Image:
        """The row's picture, RGB. Raises RecordError (reason `picture`) where it cannot be read."""

    def question_key(self, row: SourceRow) -> str:
        """Equal for two rows that ask the same thing; here the normalised text."""
        return normalise(row.question)

    def folder_key(self, row: SourceRow) -> str:
        """Name of the folder that the row's picture lies in, equal for all its rows; here the parent of its key."""
        return str(PurePosixPath(row.picture).parent)


def normalise(text: str) -> str:
    """Lower case, single spaces, no closing punctuation: for comparing questions or answers."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".?!").rstrip().casefold()


def check_split(split: str) -> None:
    """Raise ConfigError for a split that no source has."""
    if split not in get_args(Split):
        raise ConfigError(f"split={split!r}: a source has the splits {', '.join(get_args(Split))}")
