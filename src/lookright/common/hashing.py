"""Hashes: one for everything that is drawn, split or seeded by a name, one for the content of files."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from lookright.common.cache import cache_folder

_KEPT = re.compile(r"[0-9a-f]{32}")
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
    spread, the first and the last bytes among them. A large file is read once as long as its path, size and time of
    change (ns) stay: the hash is kept in the cache folder. Raises OSError.
    """
    found = path.stat()
    if found.st_size <= NUM_PIECES * PIECE:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    key = hash_text(f"{os.path.realpath(path)}\0{found.st_size} {found.st_mtime_ns} {whole}")
    cache = cache_folder()
    kept = None if cache is None else cache / "hashes" / key
    with suppress(OSError):
        if kept is not None and _KEPT.fullmatch(text := kept.read_text()):
            return text
    digest = _hash_large(path, found.st_size, whole=whole)
    # no defect of the cache is ever an error; renamed, so that nobody reads half of it
    with suppress(OSError):
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f"{key}.{os.getpid()}")
            temporary.write_text(digest)
            temporary.replace(kept)
    return digest


def _hash_large(path: Path, size: int, *, whole: bool) -> str:
    with path.open("rb") as file:
        if whole:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        digest = hashlib.sha256(f"{size} bytes in pieces".encode())
        for number in range(NUM_PIECES):
            file.seek((size - PIECE) * number // (NUM_PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()[:32]
