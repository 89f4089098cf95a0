"""Pictures of records, read when they are wanted and checked before."""

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from lookright.common.pictures import checked_size, decode_rgb, leaves_folder, limits_fault
from lookright.common.strict_json import short, unfit_character
from lookright.errors import RecordError
from lookright.records.picture_memory import PictureMemory, content_key, file_key, real_path
from lookright.types import Size


class Pictures(Protocol):
    """Opens the pictures that the records of one file name."""

    def open(self, name: str) -> Image.Image:
        """The picture, RGB. Raises RecordError (reason `picture` or `path`)."""
        ...

    def size(self, name: str) -> Size:
        """Width and height upright, once the picture was found to decode; remembered. Raises RecordError."""
        ...


class MeasuredPictures(Pictures, Protocol):
    """Pictures that also tell what is read off their pixels."""

    def measured(self, name: str, names: Sequence[str], measure: Callable[[Image.Image], list[Size]]) -> list[Size]:
        """Sizes of parts of a picture, one for each of `names`. Raises RecordError as `open` does."""
        ...


class CheckedPictures:
    """The part that all kinds of pictures share; a kind says where the picture is."""

    def __init__(self, memory: PictureMemory) -> None:
        self._memory = memory
        self._sizes: dict[str, Size] = {}

    def encoded(self, name: str) -> bytes | Path:
        """The file that holds a picture, or the bytes of one. Raises RecordError."""
        raise NotImplementedError

    def open(self, name: str) -> Image.Image:
        """See `Pictures.open`."""
        with self._readable(name):
            image = decode_rgb(self.encoded(name), f"picture {name}")
        known = self._sizes.get(name, image.size)
        if image.size != known:
            raise RecordError(
                "picture",
                f"picture {name} has {image.width} x {image.height} pixels, it had {known[0]} x {known[1]} when it was "
                "checked: it was changed while the run was on",
            )
        return image

    def size(self, name: str) -> Size:
        """See `Pictures.size`."""
        if name not in self._sizes:
            with self._readable(name):
                self._sizes[name] = self._checked(name, self.encoded(name))
        return self._sizes[name]

    def file_size(self, name: str) -> int:
        """Bytes of a picture's file, 0 for one in the row of a table. Raises RecordError as `open` does."""
        with self._readable(name):
            data = self.encoded(name)
            return data.stat().st_size if isinstance(data, Path) else 0

    def measured(self, name: str, names: Sequence[str], measure: Callable[[Image.Image], list[Size]]) -> list[Size]:
        """Sizes that are read off a picture's pixels, one for each of `names`; remembered as its own size is.

        `names` say what is measured, and how: another way has another name. Raises RecordError as `open` does.
        """
        with self._readable(name):
            data = self.encoded(name)
            keys = [content_key(f"{_key(data)} {part}".encode()) for part in names]
        known = [size for key in keys if (size := self._memory.get(key)) is not None]
        if len(known) == len(keys):
            return known
        found = measure(self.open(name))
        for key, size in zip(keys, found, strict=True):
            self._memory.put(key, size)
        return found

    def _checked(self, name: str, data: bytes | Path) -> Size:
        """From the memory, else by decoding the picture."""
        key = _key(data)
        known = self._memory.get(key)
        if known is not None and limits_fault(known) is None:
            return known
        size = checked_size(data, name)
        # a file that changes as it is read is not what the key says
        if _key(data) == key:
            self._memory.put(key, size)
        return size

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = self.encoded(name)
            shown = found if isinstance(found, Path) else name
            raise RecordError(
                "picture",
                f"cannot read the picture {shown} ({error.strerror or error}); paths start from "
                "data.image_root, or where it is not set from the record file's folder",
            ) from error


class PictureFolder(CheckedPictures):
    """Files under one folder; a path that leaves it raises RecordError (reason `path`).

    `others` are absolute folders that a user named beside it, as the values of the setting `key`: absolute paths into
    them are read too. Links are followed where they end in one of these folders; a hub's cache is one with its blobs.
    """

    def __init__(self, root: Path, others: Sequence[Path] = (), key: str = "data.path_map") -> None:
        super().__init__(PictureMemory(root))
        self.root, self.others, self._key = root, tuple(others), key
        self._homes = [os.path.realpath(home) for home in (root, *others)]
        self._homes += [blobs for home in self._homes for blobs in _hub_blobs(home)]

    def encoded(self, name: str) -> Path:
        """The file `<root>/<name>`, or an absolute path into one of the others."""
        path = Path(name)
        if path.is_absolute() and ".." not in path.parts and any(path.is_relative_to(other) for other in self.others):
            return self._at_home(check_path(name), path)
        if leaves_folder(name):
            raise RecordError(
                "path",
                f"the image path {name!r} leaves {self.root}; paths are relative to the record file's folder or to "
                "data.image_root, without '..'",
            )
        return self._at_home(check_path(name), self.root / name)

    def _at_home(self, name: str, path: Path) -> Path:
        """The path, if no link on it leads elsewhere. Raises RecordError (reason `path`)."""
        real = real_path(path)
        if any(real == home or real.startswith(f"{home.rstrip('/')}/") for home in self._homes):
            return path
        raise RecordError(
            "path",
            f"the image path {name!r} leads by a link to {real}, outside of {self.root}; where that is meant, set "
            f"{self._key}={{{self._first_link(name)}}}, or copy the file",
        )

    def _first_link(self, name: str) -> str:
        """An entry of the map that stands for the link: what is linked, and the folder that it leads to."""
        parts = Path(name).parts
        for length in range(1, len(parts)):
            start = Path(*parts[:length])
            if (self.root / start).is_symlink():
                return f"{start}: {os.path.realpath(self.root / start)}"
        return f"{os.path.dirname(name) or name}: {os.path.dirname(real_path(self.root / name))}"


class TablePictures(CheckedPictures):
    """Pictures in the rows of a table (`#<row>/<n-th>`) beside paths into a folder."""

    def __init__(self, table: "PictureCells", folder: PictureFolder) -> None:
        super().__init__(folder._memory)
        self._table, self._folder = table, folder

    def encoded(self, name: str) -> bytes | Path:
        """Embedded bytes, or a file."""
        place = _EMBEDDED.fullmatch(name)
        return (
            self._folder.encoded(name) if place is None else embedded(self._table.images(int(place[1]))[int(place[2])])
        )


class PictureCells(Protocol):
    """Picture cells of rows by their numbers."""

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        ...


class HeldCells:
    """Picture cells of json rows that hold bytes, kept as they came: other rows are not held in memory."""

    def __init__(self) -> None:
        self._cells: dict[int, list[Any]] = {}

    def keep(self, number: int, cells: list[Any]) -> None:
        """Hold the cells of one row."""
        self._cells[number] = cells

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        return self._cells[number]


_EMBEDDED = re.compile(r"#(\d+)/(\d+)")
MAX_PATH = 4096
"""Characters; no file of Linux has a longer path."""
_DATA_ADDRESS = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


def picture_cells(data: dict[str, Any]) -> list[Any]:
    """The pictures of a row: its `images`, else its one `image`; a column of one picture as a list, none as []."""
    value = data.get("images") if data.get("images") is not None else data.get("image")
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def check_path(name: str) -> str:
    """The path of a picture as it is. Raises RecordError (reason `path`) for one that no file can have."""
    if _EMBEDDED.fullmatch(name):
        raise RecordError("path", f"the image path {name!r} is how pictures in rows are called; rename the file")
    if len(name) > MAX_PATH:
        raise RecordError("path", f"the image path {short(name)} has {len(name)} characters, {MAX_PATH} are the most")
    fault = unfit_character(name)
    if fault is not None:
        raise RecordError("path", f"the image path {short(name)} has {fault}")
    return name


def picture_name(cell: Any, number: int, nth: int) -> str:
    """The path in a cell, or `#<row>/<n-th>` where it holds a picture. Raises RecordError."""
    if isinstance(cell, str) and cell and not _DATA_ADDRESS.match(cell):
        return check_path(cell)
    if embedded(cell):
        return f"#{number}/{nth}"
    path = cell.get("path") if isinstance(cell, dict) else None
    if isinstance(path, str) and path:
        return check_path(path)
    if isinstance(cell, dict):
        raise RecordError("picture", f"images[{nth}] holds neither bytes nor a path")
    raise RecordError("malformed", f"image {short(cell)} is neither a path nor a list of paths")


def embedded(cell: Any) -> bytes:
    """Bytes of one picture cell; empty where it holds a path. Raises RecordError for text that is no base64.

    A cell is bytes, {bytes, path} as `datasets` stores them, in json with base64, or a `data:` address.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str) or not (isinstance(cell, dict) or _DATA_ADDRESS.match(data)):
        return b""
    try:
        return base64.b64decode(_DATA_ADDRESS.sub("", data, count=1), validate=True)
    except binascii.Error as error:
        raise RecordError("picture", f"the bytes of a picture are no base64 ({error}): {data[:40]!r}") from error


def _hub_blobs(home: str) -> list[str]:
    """Where the links of a folder `snapshots/COMMIT` of a hub's cache end."""
    parts = Path(home).parts
    if "snapshots" not in parts:
        return []
    place = len(parts) - 1 - parts[::-1].index("snapshots")
    return [str(Path(*parts[:place], "blobs"))] if len(parts) > place + 1 else []


def _key(data: bytes | Path) -> str:
    return file_key(data) if isinstance(data, Path) else content_key(data)
