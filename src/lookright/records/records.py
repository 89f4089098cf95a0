"""Prompts and preferences as JSON lines."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from lookright.common.jsonl import numbered_lines, write_atomically
from lookright.common.strict_json import dump_line, parse_json, short
from lookright.errors import RecordError
from lookright.types import Preference, Prompt, Region

Record = Prompt | Preference
RecordType = TypeVar("RecordType", Prompt, Preference)


def to_dict(record: Record) -> dict[str, Any]:
    """Plain containers for json; unknown geometry is left out, a single `rejected` is a string."""
    data = {key: value for key, value in asdict(record).items() if value is not None}
    if isinstance(record, Preference) and len(record.rejected) == 1:
        data["rejected"] = record.rejected[0]
    return data


def prompt_from_dict(data: Any) -> Prompt:
    """Return the inverse of `to_dict`; earlier versions called the ground truth `answer`.

    Raises RecordError (reason `malformed`) naming the key.
    """
    if isinstance(data, dict) and "answer" in data and "ground_truth" not in data:
        data = {"ground_truth" if key == "answer" else key: value for key, value in data.items()}
    if isinstance(data, dict):
        data = with_one_truth(data)
    return Prompt(**_checked(data, Prompt))


def with_one_truth(data: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a prompt with one ground truth, the most frequent; all of them, and options, as provenance.

    A ground truth may be a list of texts or, as in VQA v2, of `{answer: text}`. Raises RecordError (reason
    `malformed`).
    """
    further: dict[str, Any] = {}
    truths, options = data.get("ground_truth"), data.get("options")
    if isinstance(truths, list):
        further["ground_truths"] = _texts("ground_truth", truths)
        data = data | {"ground_truth": Counter(further["ground_truths"]).most_common(1)[0][0]}
    if options is not None:
        further["options"] = _texts("options", options)
        data = {key: value for key, value in data.items() if key != "options"}
    provenance = data.get("provenance", {})
    return data | {"provenance": provenance | further} if further and isinstance(provenance, dict) else data


def _texts(key: str, value: Any) -> list[str]:
    found: list[Any] = (
        [one.get("answer") if isinstance(one, dict) else one for one in value] if isinstance(value, list) else []
    )
    if not found or not all(isinstance(one, str) for one in found):
        raise _malformed(f"{key}={short(value)} is no list of texts")
    return found


def preference_from_dict(data: Any) -> Preference:
    """The inverse of `to_dict`. Raises RecordError (reason `malformed`) naming the key."""
    if isinstance(data, dict) and isinstance(data.get("rejected"), str):
        data = data | {"rejected": [data["rejected"]]}
    return Preference(**_checked(data, Preference))


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write all records, one a line, into a file that is there whole or not at all."""
    write_atomically(path, map(to_line, records))


def to_line(record: Record) -> str:
    """One line, its line feed included; non-ASCII letters stay readable."""
    return dump_line(to_dict(record), f"record {record.id}")


def read_prompts(path: Path) -> Iterator[Prompt]:
    """Records of a file that this package wrote. Raises RecordError naming file and line."""
    for where, line in numbered_lines(path):
        try:
            yield prompt_from_dict(parse_json(line))
        except RecordError as error:
            raise RecordError(error.reason, f"{where}: {error}") from error


def _checked(data: Any, kind: type[RecordType]) -> dict[str, Any]:
    """Keyword arguments of a record, every field of the right type."""
    if not isinstance(data, dict):
        raise _malformed(f"a record is a json object, found {type(data).__name__}")
    known = {field.name: field for field in fields(kind)}
    unknown = [key for key in data if key not in known]
    if unknown:
        raise _malformed(f"unknown key {short(unknown[0])}; valid are {', '.join(known)}")
    missing = [name for name, field in known.items() if name not in data and _required(field)]
    if missing:
        raise _malformed(f"the key {missing[0]!r} is missing; a {kind.__name__.lower()} needs it")
    return {key: _value(key, value, kind) for key, value in data.items()}


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(key: str, value: Any, kind: type[Record]) -> Any:
    if kind is Preference and value is None and key in ("format", "target", "regions"):
        return None
    if key == "regions":
        return _regions(value)
    expected = _TYPES[key]
    if not isinstance(value, expected) or isinstance(value, bool):
        raise _malformed(f"{key}={short(value)} is {type(value).__name__}, not {expected.__name__}")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise _malformed(f"{key}={short(value)}: every item is a string")
    return value


_TYPES: dict[str, type] = {
    "id": str,
    "images": list,
    "prompt": str,
    "ground_truth": str,
    "chosen": str,
    "rejected": list,
    "format": str,
    "target": int,
    "scores": dict,
    "provenance": dict,
}


def _regions(value: Any) -> list[Region]:
    if not isinstance(value, list):
        raise _malformed(f"regions={short(value)} is not a list")
    return [_region(number, item) for number, item in enumerate(value)]


def _region(number: int, item: Any) -> Region:
    shape = "a region is {picture: number, box: [x0, y0, x1, y1], source: text}"
    if not isinstance(item, dict) or item.keys() != {"picture", "box", "source"}:
        raise _malformed(f"regions[{number}]={short(item)}: {shape}")
    picture, box, source = item["picture"], item["box"], item["source"]
    sides = isinstance(box, list | tuple) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if type(picture) is not int or not isinstance(source, str) or not sides:
        raise _malformed(f"regions[{number}]={short(item)}: {shape}")
    x0, y0, x1, y1 = box
    return Region(picture=picture, box=(x0, y0, x1, y1), source=source)


def _malformed(message: str) -> RecordError:
    return RecordError("malformed", message)
