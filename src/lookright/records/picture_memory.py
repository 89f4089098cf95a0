"""Pictures that were found to decode, remembered over runs, so that a second start opens none of them."""

import hashlib
import os
import re
import threading
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import PIL

from lookright.common.cache import cache_folder
from lookright.types import Size

VERSION = 1
"""Of the rule by which pictures are taken (`lookright.common.pictures`): another rule, another memory."""
_LINE = re.compile(rb"([0-9a-f]{32}) (\d+) (\d+) ([0-9a-f]{8})")


def file_key(path: Path) -> str:
    """Changes with the real path, the size and the time of change (ns) of a file. Raises OSError."""
    found = os.stat(path)
    return content_key(b"\0".join([os.fsencode(real_path(path)), b"%d %d" % (found.st_size, found.st_mtime_ns)]))


def real_path(path: Path) -> str:
    """The path with every link on it followed; those of folders are remembered."""
    parent = _real_folder(os.path.dirname(path))
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(parent, os.path.basename(path))


def content_key(data: bytes) -> str:
    """32 hexadecimal digits that depend on all of the bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class PictureMemory:
    """Upright sizes by key, of good pictures alone, in one append-only file for each root folder of pictures.

    Every line has its checksum and is written at once, so that several processes and threads may append and a torn
    or damaged line is as good as none. No defect of file or folder is ever an error: then nothing is remembered.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        folder = cache_folder()
        name = content_key(os.fsencode(os.path.realpath(root)))
        self._path = None if folder is None else folder / f"pictures-{VERSION}-{PIL.__version__}" / name
        self._sizes: dict[str, Size] | None = None
        self._file: int | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[type["PictureMemory"], tuple[Path]]:
        """An open file does not go to another process."""
        return type(self), (self._root,)

    def __del__(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)

    def get(self, key: str) -> Size | None:
        """Width and height, None where nothing is known."""
        return self._known().get(key)

    def put(self, key: str, size: Size) -> None:
        """Remember a good picture."""
        if self.get(key) == size or self._path is None:
            return
        self._known()[key] = size
        body = f"{key} {size[0]} {size[1]}".encode()
        # the line feed in front ends what a killed writer may have left
        line = b"\n%s %08x\n" % (body, zlib.crc32(body))
        with suppress(OSError):
            os.write(self._opened(self._path), line)

    def _opened(self, path: Path) -> int:
        """The file to append to, opened once by whichever thread comes first. Raises OSError."""
        with self._opening:
            if self._file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            return self._file

    def _known(self) -> dict[str, Size]:
        if self._sizes is None:
            self._sizes = self._read()
        return self._sizes

    def _read(self) -> dict[str, Size]:
        sizes: dict[str, Size] = {}
        if self._path is None:
            return sizes
        with suppress(OSError):
            for line in self._path.read_bytes().split(b"\n"):
                found = _LINE.fullmatch(line)
                if found is not None and int(found[4], 16) == zlib.crc32(line[:-9]):
                    sizes[found[1].decode()] = int(found[2]), int(found[3])
        return sizes


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
