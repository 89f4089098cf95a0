"""Pictures of records, read when they are wanted and checked before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from lookright.data.picture_memory import PictureMemory, content_key, file_key
from lookright.errors import RecordError
from lookright.pictures import checked_size, decode_rgb, leaves_folder, limits_fault
from lookright.types import Size


class Pictures(Protocol):
    """Opens the pictures that the records of one file name."""

    def open(self, name: str) -> Image.Image:
        """The picture, RGB. Raises RecordError (reason `picture` or `path`)."""
        ...

    def size(self, name: str) -> Size:
        """Width and height upright, once the picture was found to decode; remembered. Raises RecordError."""
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
            raise RecordError(
                "picture",
                f"cannot read the picture {self.encoded(name)} ({error.strerror or error}); paths start from "
                "data.image_root, or where it is not set from the record file's folder",
            ) from error


class PictureFolder(CheckedPictures):
    """Files under one folder; a path that leaves it raises RecordError (reason `path`)."""

    def __init__(self, root: Path) -> None:
        super().__init__(PictureMemory(root))
        self.root = root

    def encoded(self, name: str) -> Path:
        """The file `<root>/<name>`."""
        if leaves_folder(name):
            raise RecordError(
                "path",
                f"the image path {name!r} leaves {self.root}; paths are relative to the record file's folder or to "
                "data.image_root, without '..'",
            )
        return self.root / name


class TablePictures(CheckedPictures):
    """Pictures in the rows of a table (`#<row>/<n-th>`) beside paths into a folder."""

    def __init__(self, table: Any, folder: PictureFolder) -> None:
        super().__init__(folder._memory)
        self._table, self._folder = table, folder

    def encoded(self, name: str) -> bytes | Path:
        """Embedded bytes, or a file."""
        if not name.startswith("#"):
            return self._folder.encoded(name)
        row, nth = map(int, name[1:].split("/"))
        return embedded(self._table.images(row)[nth])


def embedded(cell: Any) -> bytes:
    """Bytes of one picture cell: bytes, or {bytes, path} as `datasets` stores them; empty where it holds a path."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else b""


def _key(data: bytes | Path) -> str:
    return file_key(data) if isinstance(data, Path) else content_key(data)
