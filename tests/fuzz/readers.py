"""All readers that are fuzzed, by name."""

import logging
import os
import tempfile
import warnings
from pathlib import Path

from tests.fuzz import binary_readers, record_readers
from tests.fuzz.reader import Outcome, Reader, fuzz

READERS: dict[str, Reader] = {one.name: one for one in (*record_readers.READERS, *binary_readers.READERS)}


def prepare(folder: Path) -> None:
    """What the seeds need beside them."""
    record_readers.prepare(folder)


def quiet() -> None:
    """No messages of what is read, one thread for each process, nothing remembered of pictures."""
    os.environ.update(LOOKRIGHT_CACHE="", HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def work(name: str, count: int, source: int) -> Outcome:
    """Some cases of one reader in a folder of their own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        prepare(Path(folder))
        return fuzz(READERS[name], count, source, Path(folder))
