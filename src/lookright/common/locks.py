"""One process at a time writes to an output folder."""

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lookright.errors import ConfigError

LOCK_FILE = ".lock"
_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextmanager
def locked(folder: Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold `folder/name` inside. Raises ConfigError naming the process that holds it.

    The lock is the kernel's (flock), so a process that is killed leaves none; the file that stays behind then stops
    nobody. On a file system without locks a warning says so, and the work goes on. Folders that were made for the lock
    and in which nothing was written are removed at the end: what is refused leaves nothing.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / name
    descriptor = _taken(path)
    if descriptor is not None:
        _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            _held.discard(descriptor)
            # while it is held: behind the release it could be another's
            path.unlink(missing_ok=True)
            os.close(descriptor)
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _taken(path: Path) -> int | None:
    """A descriptor that holds the lock, None where the file system has no locks. Raises ConfigError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"output={path.parent} is being written by {holder or 'another process'}; wait for its end, stop it, "
                "or set another output"
            ) from None
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            warnings.warn(
                f"{path.parent} has no file locks ({error.strerror}): start no second run with this output",
                stacklevel=3,
            )
            return None
        if _is_still(descriptor, path):
            since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
            holder = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
            # a full disk: the lock holds all the same, and the first file that is written says so by its name
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, holder.encode(), 0)
            return descriptor
        # the one who held it has removed the file since it was opened
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """In a forked process (a worker of a loader): a lock ends with the process that took it, not with the last one."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
