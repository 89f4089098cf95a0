"""One hash for everything that is drawn, split or seeded by a name: the same in every process and version."""

import hashlib


def stable_hash(text: str | bytes, num_bytes: int = 8) -> int:
    """Return a whole number in [0, 256**num_bytes) that depends on the text alone (BLAKE2b, big-endian)."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=num_bytes).digest(), "big")
