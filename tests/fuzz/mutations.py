"""Damage: what disks, editors, other programs and other people do to a file. Deterministic by its random source."""

import json
import random
from collections.abc import Callable
from typing import Any

Damage = Callable[[random.Random, bytes], bytes]

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, 5e-324, "", " ", "0", "1234", "true",
    "nan", "\0", "\ud800", "\udc00x", "\u2028", "\ufeff", "é", "a" * 5000, "..", "../a.png", "/etc/passwd", "a.png\0",
    "#0/0", "#7/9", "<image>", "<image>" * 40, "Image 99999999999999999999:", "In Image2, what?",
    "data:image/png;base64,AA==",    "data:image/png;base64,%%", "http://x/y.png", "C:\\a.png", [], {}, [[]], [None],
    [{}], {"bytes": "AAAA"}, {"path": ""}, {"bytes": None, "path": None}, [0, 0, 1, 1], ["0", "0", "1", "1"], [0, 0,
    True, True],
    {"role": [], "content": 1}, [{"role": "user", "content": "x"}],
    [{"from": "gpt", "value": None}], [{"type": "text", "text": 5}], {"": ""},
)  # fmt: skip
"""Values that stand where another kind is expected."""
ODD_TEXTS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 400, b"-" + b"9" * 5000, b"0" * 30, b"1_0", b"0x10",
    b'"\\ud800"', b'"\\u0000"', b'"\\', b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"\xc0\x80", b"\xed\xa0\x80",
    b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\r", b"'", b'"', b"//", b"\xf4\x90\x80\x80", b"true", b"null",
)  # fmt: skip
"""Bytes put into the middle of a file."""
DEPTHS = (10, 63, 64, 65, 900, 100_000)


def mutate(rng: random.Random, seed: bytes, rounds: int = 3) -> bytes:
    """A seed with one to `rounds` damages."""
    data = seed
    for _ in range(rng.randint(1, rounds)):
        data = rng.choice(DAMAGES)(rng, data)
    return data[: 1 << 20]


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 16)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _cut_front(rng: random.Random, data: bytes) -> bytes:
    return data[_place(rng, data) :]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 8, 64, 512)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((_place(rng, data), _place(rng, data)))
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 20)) + data[end:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.choice(ODD_TEXTS) + data[start:]


def _number(rng: random.Random, data: bytes) -> bytes:
    """An odd text in the place of a run of digits."""
    digits = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return data
    start = end = rng.choice(digits)
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    return data[:start] + rng.choice(ODD_TEXTS) + data[end:]


def _zeros(rng: random.Random, data: bytes) -> bytes:
    """What a crash of the machine leaves of blocks that were not written."""
    start = _place(rng, data)
    end = min(len(data), start + rng.choice((1, 16, 512)))
    return data[:start] + bytes(end - start) + data[end:]


def _nest(rng: random.Random, data: bytes) -> bytes:
    start, depth = _place(rng, data), rng.choice(DEPTHS)
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return data[:start] + opening * depth + b"1" + closing * (depth if rng.random() < 0.8 else 0) + data[start:]


def _encode(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    kind = rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32", "cp1252"))
    return text.encode(kind, "replace")


def _line_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"", b"\n\n", b"\0\n", b"\x0b")))


def _constant(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        (
            b"",
            b"\n",
            b"null",
            b"[]",
            b"{}",
            b'"x"',
            b"0",
            b"\0" * 64,
            b"<html></html>",
            POINTER,
            b"[" * 100_000,
            data * 3,
        )
    )


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
"""What Git leaves in the place of a large file that it was not asked to fetch."""


def _structure(rng: random.Random, data: bytes) -> bytes:
    """One value of one json document of the file, or one key, changed for another."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    for text, whole in ((lines[number], False), (data, True)):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        changed = _dumped(rng, _changed(rng, value))
        if whole:
            return changed
        lines[number] = changed
        return b"\n".join(lines)
    return _flip(rng, data)


def _dumped(rng: random.Random, value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: random.Random, value: Any) -> Any:
    """Go down to a random place, and change it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            return {
                rng.choice((f"{key} ", key.upper(), "", "id", "answer")) if n == key else n: v for n, v in value.items()
            }
        if kind < 0.3:
            return value | {rng.choice(("extra", "videos", "messages", "system", "history", "regions")): _odd(rng)}
        return value | {key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return value[:place] + value[place + 1 :]
        if kind < 0.2:
            return value[:place] + [value[place]] * rng.choice((2, 3)) + value[place + 1 :]
        if kind < 0.3:
            return rng.sample(value, len(value))
        return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    return _odd(rng)


def _odd(rng: random.Random) -> Any:
    return rng.choice(ODD_VALUES)


DAMAGES: tuple[Damage, ...] = (
    _flip, _byte, _cut, _cut_front, _remove, _repeat, _insert, _number, _zeros, _nest, _encode, _line_ends, _constant,
    *[_structure] * 13,
)  # fmt: skip
"""Every second damage is one that keeps the file json: others rarely get past its reader."""
