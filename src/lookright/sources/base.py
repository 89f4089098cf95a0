"""What every source of single-image questions answers."""

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from PIL import Image, UnidentifiedImageError

from lookright.errors import ConfigError, RecordError
from lookright.types import SourceRow

Split = Literal["train", "test"]

PICTURE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for a picture that it cannot read."""


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


def leaves_folder(name: str) -> bool:
    """Whether a path could name something outside the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]


def open_rgb(path: Path, where: str) -> Image.Image:
    """Decode a picture file to RGB. Raises RecordError (reason `picture`) naming `where` and the path."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError("picture", f"{where}: cannot read the picture {path} ({error.strerror or error})") from error
    return decode_rgb(data, f"{where}: {path}")


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """Decode the bytes of a picture to RGB. Raises RecordError (reason `picture`) naming `where`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _eight_bits(image).convert("RGB")
    except PICTURE_ERRORS as error:
        raise RecordError("picture", f"{where}: broken picture of {len(data)} bytes ({fault(error)})") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture itself, or the upper 8 bits of 16: `convert` would turn all above 255 into white."""
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")


def fault(error: Exception) -> str:
    """What PIL found, without the address of the buffer that its message names."""
    return "no picture format that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
