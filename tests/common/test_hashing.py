"""Draws, splits and seeds of every run so far hang on these numbers."""

import hashlib

import pytest

from lookright.common.hashing import stable_hash


def test_numbers_stay_what_they_are() -> None:
    assert stable_hash("draw/easy_vqa/train/0/0") == 0x6E2FBDAD313DF3EA
    assert stable_hash("0/0/0/0", 7) == 0x6A01B25EF65E46


@pytest.mark.parametrize("num_bytes", [4, 7, 8])
def test_it_is_blake2b_read_as_a_number(num_bytes: int) -> None:
    for text in ("", "a/1", "Größe"):
        digest = hashlib.blake2b(text.encode(), digest_size=num_bytes)
        assert stable_hash(text, num_bytes) == stable_hash(text.encode(), num_bytes)
        assert f"{stable_hash(text, num_bytes):0{2 * num_bytes}x}" == digest.hexdigest()
