"""Pictures of records, read when they are wanted and checked before."""

import io
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from lookright.errors import RecordError
from lookright.sources.base import PICTURE_ERRORS, decode_rgb, fault, leaves_folder
from lookright.types import Size

JPEG_END = b"\xff\xd9"


class Pictures(Protocol):
    """Opens the pictures that the records of one file name."""

    def open(self, name: str) -> Image.Image:
        """The picture, RGB. Raises RecordError (reason `picture` or `path`)."""
        ...

    def size(self, name: str) -> Size:
        """Width and height, once the picture was found whole; remembered. Raises RecordError."""
        ...


class CheckedPictures:
    """The part that all kinds of pictures share; a kind says where the bytes are."""

    def __init__(self) -> None:
        self._sizes: dict[str, Size] = {}

    def read(self, name: str) -> bytes:
        """Encoded bytes. Raises RecordError."""
        raise NotImplementedError

    def open(self, name: str) -> Image.Image:
        """See `Pictures.open`."""
        return decode_rgb(self.read(name), f"picture {name}")

    def size(self, name: str) -> Size:
        """See `Pictures.size`."""
        if name not in self._sizes:
            self._sizes[name] = checked_size(self.read(name), name)
        return self._sizes[name]


class PictureFolder(CheckedPictures):
    """Files under one folder; a path that leaves it raises RecordError (reason `path`)."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def read(self, name: str) -> bytes:
        """Bytes of the file `<root>/<name>`."""
        if leaves_folder(name):
            raise RecordError(
                "path",
                f"the image path {name!r} leaves {self.root}; paths are relative to the record file's folder or to "
                "data.image_root, without '..'",
            )
        path = self.root / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise RecordError(
                "picture",
                f"cannot read the picture {path} ({error.strerror or error}); paths start from data.image_root, "
                "or where it is not set from the record file's folder",
            ) from error


def checked_size(data: bytes, name: str) -> Size:
    """Size of an encoded picture that is whole. Raises RecordError (reason `picture`).

    PNG is verified by its checksums, undecoded. JPEG has none: it is decoded only where its end mark is not
    near the end, as in a file that was cut. All other kinds are decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, kind = image.size, image.format
            if kind == "PNG":
                image.verify()
            elif kind != "JPEG" or JPEG_END not in data[-256:]:
                image.load()
    except PICTURE_ERRORS as error:
        raise RecordError("picture", f"broken picture {name} of {len(data)} bytes ({fault(error)})") from error
    return size


class TablePictures(CheckedPictures):
    """Pictures in the rows of a table (`#<row>/<n-th>`) beside paths into a folder."""

    def __init__(self, table: Any, folder: PictureFolder) -> None:
        super().__init__()
        self._table, self._folder = table, folder

    def read(self, name: str) -> bytes:
        """Embedded bytes, or those of a file."""
        if not name.startswith("#"):
            return self._folder.read(name)
        row, nth = map(int, name[1:].split("/"))
        return embedded(self._table.images(row)[nth])


def embedded(cell: Any) -> bytes:
    """Bytes of one picture cell: bytes, or {bytes, path} as `datasets` stores them; empty where it holds a path."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else b""
