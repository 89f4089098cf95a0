"""json from anywhere, read strictly: what Python's own reader takes silently, and would be told later or never, is
refused here.

Refused beside what is no json (RFC 8259): bytes that are not UTF-8, a byte order mark, NaN and Infinity, numbers that
no float64 or 64 bits hold, a key that comes twice in an object (all but the last would be lost), nesting deeper than
`MAX_DEPTH`, half of a surrogate pair (no UTF-8 file can hold it), NUL characters (no path can).
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from lookright.errors import ConfigError, RecordError

MAX_DEPTH = 64
"""Conversations with typed parts are 5 deep; Python's own limit is reached near 1,000, and by a traceback."""
_OTHER_ENCODINGS = {
    b"\xef\xbb\xbf": "it begins with a byte order mark; save it as UTF-8 without one",
    b"\xff\xfe": "it begins as UTF-16 does; save it as UTF-8",
    b"\xfe\xff": "it begins as UTF-16 does; save it as UTF-8",
}
_CONTAINERS = (dict, list)
_ESCAPES = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
"""What may stand for half a surrogate pair, or for NUL."""
_UNFIT = re.compile("[\0\ud800-\udfff]")


def parse_json(data: bytes | str) -> Any:
    """One json value. Raises RecordError (reason `json`) that says what is wrong and where in `data`."""
    text = _text(data)
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise _deep() from error
    except ValueError as error:
        raise RecordError("json", f"not valid json ({error}): {text.strip()[:80]!r}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if _ESCAPES.search(text):
        _check_characters(value)
    return value


def read_json(path: Path, remedy: str, what: str = "") -> Any:
    """The json value of a file. Raises ConfigError naming the file, or `what` as messages call it, and `remedy`."""
    name = what or str(path)
    try:
        return parse_json(read_regular(path))
    except RecordError as error:
        raise ConfigError(f"{name}: {error}; {remedy}") from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be read ({error.strerror or error}); {remedy}") from error


def read_object(path: Path, remedy: str, what: str = "") -> dict[str, Any]:
    """As `read_json`, for a file that holds one json object."""
    value = read_json(path, remedy, what)
    if not isinstance(value, dict):
        raise ConfigError(f"{what or path}: found a json {type(value).__name__}, not an object; {remedy}")
    return value


def read_regular(path: Path) -> bytes:
    """Bytes of a file. Raises OSError for what is none: a pipe would wait for a writer, a device may never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")
    return path.read_bytes()


def dump_line(value: Any, name: str) -> str:
    """One line of json, its line feed included, other scripts as they are.

    Raises LookRightError naming `name` and the place of a number that is not finite: no reader takes one.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        place, found = next(_not_finite(value), ("", error))
        raise RecordError(
            "not_finite",
            f"{name}: {place or 'a value'} is {found}, which json cannot hold: the model computed no number. Look at "
            "its weights and adapter, or set dtype to a type with more range, such as bfloat16 or float32",
        ) from error


def finite(value: Any) -> Any:
    """Plain containers with None for every number that is not finite: there is no such value, and json has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def short(value: Any) -> str:
    """A value as Python writes it, for a message: 80 characters at most, all of which a terminal shows."""
    text = ascii(value) if isinstance(value, str) and _UNFIT.search(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unfit_character(text: str) -> str | None:
    """What in a text no file or path can hold, in words; None where there is nothing."""
    found = _UNFIT.search(text)
    if found is None:
        return None
    kind = "a NUL character" if found[0] == "\0" else "half of a surrogate pair"
    return f"{kind} at place {found.start()}"


def _text(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    for start, fault in _OTHER_ENCODINGS.items():
        if data.startswith(start):
            raise RecordError("json", f"not valid json in UTF-8: {fault}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        around = data[max(error.start - 20, 0) : error.start + 20]
        raise RecordError(
            "json",
            f"not valid json in UTF-8: byte {error.start} is 0x{data[error.start]:02x} ({error.reason}), "
            f"in {around!r}; save the file as UTF-8",
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} comes twice in an object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is beyond float64")
    return value


def _int(text: str) -> int:
    # a sign and the 20 digits of 2**64
    if len(text) > 21 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"the number {text[:40]}{'...' if len(text) > 40 else ''} is beyond 64 bits")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no json number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant)


def _deep() -> RecordError:
    return RecordError("json", f"not valid json here: nested more than {MAX_DEPTH} deep")


def _check_depth(value: Any) -> None:
    """Level by level: a walk that calls itself would end as the reader does."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item) if isinstance(child, _CONTAINERS)]
        if not level:
            return
    raise _deep()


def _check_characters(value: Any) -> None:
    level = [value]
    while level:
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, dict) for key in item]
        for text in texts:
            fault = unfit_character(text)
            if fault is not None:
                raise RecordError("json", f"not valid json here: {fault} of the text {ascii(text[:80])}")
        level = [child for item in level for child in _children(item)]


def _children(item: Any) -> Any:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _not_finite(value: Any, place: str = "") -> Any:
    """Places and values of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{number}]")
