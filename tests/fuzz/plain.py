"""A second, independent reading of what a reader took: plain Python, strict by explicit checks, no code shared.

Every function raises AssertionError where the two readings differ.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lookright.types import Preference, Prompt

Record = Preference | Prompt


def json_value(data: bytes) -> Any:
    """One json value whose every defect is an AssertionError."""
    text = data.decode("utf-8")
    assert not text.startswith("\ufeff"), "a byte order mark"

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), "a key twice"
        return dict(pairs)

    def refused(constant: str) -> Any:
        raise AssertionError(f"{constant} was read")

    value = json.loads(text, object_pairs_hook=once, parse_constant=refused)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    return value


def json_lines(data: bytes) -> list[Any]:
    return [json_value(line) for line in data.split(b"\n") if line.strip(b" \t\r\n\x0b\x0c")]


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a json value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_record(record: Record, raw: Any) -> None:
    """A record holds what its row says: word for word, and nothing else."""
    assert isinstance(raw, dict)
    known = set(texts_of(raw)) | {text.strip() for text in texts_of(raw)} | {str(raw.get("id"))}
    assert record.id and all(type(name) is str for name in record.images)
    held = [name for name in record.images if not name.startswith("#")]
    assert set(held) <= known, f"pictures {held}"
    answers = [record.chosen, *record.rejected] if isinstance(record, Preference) else [record.ground_truth]
    for answer in answers:
        assert answer in known or answer in _joined(raw), f"the answer {answer!r} stands nowhere in the row"
    words = _without_placeholders(record.prompt)
    assert words and words in {_without_placeholders(text) for text in (*known, *_joined(raw))}, record.prompt
    for region in record.regions or []:
        assert type(region.picture) is int and len(region.box) == 4 and all(map(is_number, region.box))
        assert type(region.source) is str
    assert record.target is None or type(record.target) is int
    json.dumps(asdict(record), allow_nan=False, ensure_ascii=False).encode("utf-8")


def check_own(record: Record, raw: Any) -> None:
    """A record of a file that the package wrote equals its row, key by key."""
    assert isinstance(raw, dict)
    told = {"ground_truth" if key == "answer" and isinstance(record, Prompt) else key: v for key, v in raw.items()}
    if isinstance(told.get("rejected"), str):
        told["rejected"] = [told["rejected"]]
    found = json.loads(json.dumps(asdict(record)))
    for key, value in found.items():
        absent = {"scores": {}, "provenance": {}}.get(key)
        assert value == told.get(key, absent) and type(value) is type(told.get(key, absent)), (key, value)
    assert told.keys() <= found.keys(), "a key was left out"


def _joined(raw: dict[str, Any]) -> set[str]:
    """What forms put together: parts of a message, instruction and input."""
    parts = [text for text in (raw.get("instruction"), raw.get("input")) if isinstance(text, str) and text]
    found = {"\n".join(parts)}
    for message in _messages(raw):
        content = message.get("content") if message.get("content") is not None else message.get("value")
        if isinstance(content, list):
            pieces = [
                "<image>\n" if part.get("type") == "image" else part.get("text") or ""
                for part in content
                if isinstance(part, dict)
            ]
            found.add("".join(pieces).strip())
    return found


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"role", "from"} & value.keys():
            yield value
        for item in value.values():
            yield from _messages(item)
    elif isinstance(value, list):
        for item in value:
            yield from _messages(item)


def _without_placeholders(text: str) -> str:
    return " ".join(text.replace("<image-placeholder>", " ").replace("<image>", " ").split())
