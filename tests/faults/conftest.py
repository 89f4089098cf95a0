"""Small disks, and commands in processes of their own that are forked, since what they import is here already."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.commands.conftest import run, settings, source_folder, unbroken

__all__ = ["run", "settings", "source_folder", "unbroken"]


class Disk:
    """A file system in memory, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, num_bytes: int) -> None:
        """Fill it up to so many bytes; `free` gives them back."""
        found = os.statvfs(self.path)
        (self.path / "filler").write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - num_bytes)))

    def free(self) -> None:
        (self.path / "filler").unlink()

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)


@pytest.fixture()
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@dataclass(slots=True, frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    text: str

    @property
    def is_a_sentence(self) -> bool:
        """Whether nothing of Python's or Hydra's own failures is shown."""
        return "Traceback" not in self.text and "Error executing job" not in self.text

    @property
    def last(self) -> str:
        return self.text.strip().splitlines()[-1]


Forked = Callable[..., Ended]


@pytest.fixture()
def forked(tmp_path: Path) -> Forked:
    """Run a function with a command line in a process: forked(work, ["seed=1"])."""

    def start(work: Callable[[], object], arguments: Sequence[str] = ()) -> Ended:
        log = tmp_path / "console.txt"
        pid = os.fork()
        if pid == 0:
            _process(work, arguments, log, tmp_path)
        status = os.waitpid(pid, 0)[1]
        return Ended(code=os.waitstatus_to_exitcode(status), text=log.read_text())

    return start


def _process(work: Callable[[], object], arguments: Sequence[str], log: Path, folder: Path) -> None:
    """What the process does; it does not come back."""
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        # pytest's own are in memory
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        torch.set_num_threads(1)
        sys.argv = ["command", *arguments]
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
