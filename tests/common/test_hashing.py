"""Draws, splits and seeds of every run so far hang on these numbers."""

import hashlib
import os
from pathlib import Path

import pytest

from lookright.common.hashing import NUM_PIECES, PIECE, hash_file, stable_hash


def test_numbers_stay_what_they_are() -> None:
    assert stable_hash("draw/easy_vqa/train/0/0") == 0x6E2FBDAD313DF3EA
    assert stable_hash("0/0/0/0", 7) == 0x6A01B25EF65E46


@pytest.mark.parametrize("num_bytes", [4, 7, 8])
def test_it_is_blake2b_read_as_a_number(num_bytes: int) -> None:
    for text in ("", "a/1", "Größe"):
        digest = hashlib.blake2b(text.encode(), digest_size=num_bytes)
        assert stable_hash(text, num_bytes) == stable_hash(text.encode(), num_bytes)
        assert f"{stable_hash(text, num_bytes):0{2 * num_bytes}x}" == digest.hexdigest()


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKRIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * (NUM_PIECES * PIECE + 1))
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert hash_file(path) == wanted
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    # what lies there is taken, if it is a hash at all
    kept.write_text("0" * 32)
    assert hash_file(path) == "0" * 32 and hash_file(path, whole=False) != "0" * 32
    kept.write_text("torn")
    assert hash_file(path) == wanted == kept.read_text()
    os.utime(path, ns=(1, 1))
    kept.write_text("0" * 32)
    assert hash_file(path) == wanted
    monkeypatch.setenv("LOOKRIGHT_CACHE", str(path))
    assert hash_file(path) == wanted
