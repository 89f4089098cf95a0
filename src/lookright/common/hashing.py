"""Hashes: one for everything that is drawn, split or seeded by a name, one for the content of files."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

NUM_PIECES, PIECE = 64, 2**18
"""How a large file is read that is not read whole: so many pieces of so many bytes."""


def stable_hash(text: str | bytes, num_bytes: int = 8) -> int:
    """Return a whole number in [0, 256**num_bytes) that depends on the text alone (BLAKE2b, big-endian)."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=num_bytes).digest(), "big")


def hash_text(text: str) -> str:
    """SHA-256 of a text, 32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def hash_file(path: Path, *, whole: bool = True) -> str:
    """SHA-256 over every byte of a file, 32 hexadecimal digits: the first half of what `sha256sum` says.

    With `whole=False` a file of more than NUM_PIECES * PIECE bytes counts by its size and as many pieces, evenly
    spread, the first and the last bytes among them. A file that has not changed is read once a process. Raises OSError.
    """
    found = path.stat()
    return _hash_file(os.path.realpath(path), found.st_size, found.st_mtime_ns, whole)


@lru_cache(maxsize=4096)
def _hash_file(path: str, size: int, changed: int, whole: bool) -> str:
    del changed  # of the key alone
    with open(path, "rb") as file:
        if whole or size <= NUM_PIECES * PIECE:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        digest = hashlib.sha256(f"{size} bytes in pieces".encode())
        for number in range(NUM_PIECES):
            file.seek((size - PIECE) * number // (NUM_PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()[:32]
