"""Files that are there whole or not at all, and what a disk refuses, told in a sentence."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookright.errors import LookRightError

_ELSEWHERE = "or set another output"
_NOT_USABLE = "set another output, or make the path usable"
_FULL = f"free some space there, {_ELSEWHERE}"
REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"write to a disk that takes larger files, {_ELSEWHERE}",
    errno.EROFS: "set another output, or mount it for writing",
    errno.EACCES: _NOT_USABLE,
    errno.EPERM: _NOT_USABLE,
    errno.ENOTDIR: _NOT_USABLE,
    errno.EISDIR: _NOT_USABLE,
    errno.EEXIST: _NOT_USABLE,
    errno.ELOOP: _NOT_USABLE,
    errno.ENAMETOOLONG: "set a shorter output",
    errno.EIO: f"the disk is failing: look at the system's log, {_ELSEWHERE}",
    errno.ESTALE: f"mount the disk again, {_ELSEWHERE}",
    errno.EMFILE: "allow a process more open files (ulimit -n)",
    errno.ENFILE: "allow the machine more open files (sysctl fs.file-max)",
}
"""What helps against an error of the machine, by its number; other errors of the system are no faults of it."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which are in Rust, name the number in the errors that they raise instead."""


def fault(error: BaseException) -> str | None:
    """Path, reason and remedy where a disk or the system's limits refused, None for any other error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if cause is None or cause.errno not in REMEDIES:
        return None
    where = "a file" if cause.filename is None else f"the path {cause.filename}"
    return f"cannot use {where} ({os.strerror(cause.errno)}); {REMEDIES[cause.errno]}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an error of the system that names no file gets `path`, and one that a library hid comes out again.

    Writing to an open file tells no name; safetensors raises its own class, and torch.save a RuntimeError.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = None if isinstance(error, LookRightError) else _number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(error: Exception) -> int | None:
    found = _OS_ERROR.search(str(error))
    if found is not None:
        return int(found[1])
    hidden = error.__context__
    return hidden.errno if isinstance(error, RuntimeError) and isinstance(hidden, OSError) else None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name at the end: nobody ever reads half of it.

    It is on the disk by then. Where something fails it is gone, and what was at `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # with the ending of the other: some libraries choose a format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with naming(path):
            yield temporary
            _to_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """A text into a file, UTF-8, that is there whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to, which takes its place at the end, with all that is in it.

    Two renames, the old folder aside and the new one in: files of both are never in one folder, whenever the process
    is killed. Between the two there is none; the next call puts the old one back. Where something fails nothing has
    changed.
    """
    # a link stays one
    folder = folder.resolve()
    temporary, before = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "before"))
    _settle(folder, temporary, before)
    temporary.mkdir(parents=True)
    try:
        with naming(folder):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _to_disk(file)
            if folder.exists():
                folder.replace(before)
            temporary.replace(folder)
    finally:
        _settle(folder, temporary, before)


def _settle(folder: Path, temporary: Path, before: Path) -> None:
    """Put the old folder back where no new one is there, and remove what else a kill or an error left.

    It is removed under the name of the temporary one: what is called `before` is always whole.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    if before.exists():
        before.replace(temporary if folder.exists() else folder)
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
