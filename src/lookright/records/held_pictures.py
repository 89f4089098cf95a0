"""Pictures that a program holds, in the place of files that a record names."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from lookright.common.pictures import PICTURE_ERRORS, as_rgb, decode_rgb, limits_fault, open_rgb
from lookright.errors import RecordError
from lookright.types import Size

Picture = Image.Image | bytes | str | Path
"""A picture in memory, the bytes of a file, or a path."""


class HeldPictures:
    """Pictures by their number, "0", "1" ..., as `common.pictures` takes them all.

    Raises RecordError naming the number: reason `picture`, `picture_size`, or `malformed` for what is no picture.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._images = {str(number): _taken(picture, number) for number, picture in enumerate(pictures)}

    @property
    def names(self) -> list[str]:
        """What a record of all of them lists as its images."""
        return list(self._images)

    def open(self, name: str) -> Image.Image:
        """The picture, RGB."""
        return self._images[name]

    def size(self, name: str) -> Size:
        """Width and height upright."""
        return self._images[name].size

    def measured(self, name: str, names: Sequence[str], measure: Callable[[Image.Image], list[Size]]) -> list[Size]:
        """Sizes read off the picture; nothing of it is remembered."""
        del names
        return measure(self._images[name])


def _taken(picture: Picture, number: int) -> Image.Image:
    where = f"pictures[{number}]"
    if isinstance(picture, str | Path):
        return open_rgb(Path(picture), where)
    if isinstance(picture, bytes):
        return decode_rgb(picture, where)
    if not isinstance(picture, Image.Image):
        raise RecordError(
            "malformed", f"{where} is {type(picture).__name__}; give a PIL image, the bytes of a file, or a path"
        )
    fault = limits_fault(picture.size)
    if fault is not None:
        raise RecordError("picture_size", f"{where}: {fault}")
    try:
        return as_rgb(picture)
    except PICTURE_ERRORS as error:
        raise RecordError("picture", f"{where}: the picture cannot be decoded ({error})") from error
