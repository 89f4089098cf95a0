"""json read strictly: each defect has its sentence, and what is sound is what Python's own reader gives."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lookright.common.strict_json import MAX_DEPTH, dump_line, finite, parse_json, read_json, read_object, short
from lookright.errors import ConfigError, RecordError

REFUSED = {
    "latin-1": ("é".encode("latin-1").join([b'{"a": "', b'"}']), r"byte 7 is 0xe9 .*save the file as UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it begins as UTF-16 does; save it as UTF-8"),
    "byte order mark": ('{"a": 1}'.encode("utf-8-sig"), "byte order mark; save it as UTF-8 without one"),
    "NaN": (b'{"a": NaN}', "NaN is no json number"),
    "Infinity": (b"[-Infinity]", "-Infinity is no json number"),
    "overflow": (b"[1e999]", "the number 1e999 is beyond float64"),
    "400 digits": (b"[" + b"1" * 400 + b"]", r"the number 1{40}\.\.\. is beyond 64 bits"),
    "5,000 digits": (b"-" + b"1" * 5000, "is beyond 64 bits"),
    "65 bits": (b"18446744073709551616", "is beyond 64 bits"),
    "key twice": (b'[{"b": {"a": 1, "a": 1}}]', "the key 'a' comes twice in an object"),
    "deep": (b"[" * 65 + b"]" * 65, f"nested more than {MAX_DEPTH} deep"),
    "very deep": (b"[" * 100_000 + b"]" * 100_000, f"nested more than {MAX_DEPTH} deep"),
    "very deep objects": (b'{"a":' * 100_000, f"nested more than {MAX_DEPTH} deep|not valid json"),
    "half a pair": (rb'{"a": "\ud83d!"}', "half of a surrogate pair at place 0"),
    "half a pair in a key": (rb'{"\ude00": 1}', "half of a surrogate pair at place 0"),
    "surrogate in bytes": (b'"\xed\xa0\x80"', "byte 1 is 0xed"),
    "NUL": (rb'["x\u0000"]', "a NUL character at place 1"),
    "raw NUL": (b'"\0"', "not valid json"),
    "cut": (b'{"a": [1, 2', "not valid json"),
    "more behind": (b"{} {}", "not valid json .*Extra data"),
    "nothing": (b"", "not valid json"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_each_defect_is_named(kind: str) -> None:
    data, message = REFUSED[kind]
    with pytest.raises(RecordError, match=message) as error:
        parse_json(data)
    assert error.value.reason == "json" and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -1.5, 1e308, None, True, "é \U0001f600 \\ud800"], "b": {}},
        2**64 - 1,
        -(2**63),
        [[[]] * 200, {"a": {"b": [{}]}}],
        "\u2028\x7f",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_is_sound_is_read_as_python_reads_it(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_the_deepest_that_is_read() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(data) == json.loads(data)


def test_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(b"[")
    with pytest.raises(ConfigError, match=f"^{path}: not valid json .*; fetch it again$"):
        read_json(path, "fetch it again")
    path.write_bytes(b"[1]")
    assert read_json(path, "") == [1]
    with pytest.raises(ConfigError, match="^the index: found a json list, not an object; fetch it again$"):
        read_object(path, "fetch it again", "the index")
    with pytest.raises(ConfigError, match=f"^{tmp_path} cannot be read .it is no regular file.; set a file$"):
        read_json(tmp_path, "set a file")
    with pytest.raises(ConfigError, match="gone.json cannot be read .No such file"):
        read_json(tmp_path / "gone.json", "set a file")


def test_numbers_that_are_none_are_never_written() -> None:
    with pytest.raises(RecordError, match=r"^question 7: scores\[1\].ratio is nan, which json cannot hold") as error:
        dump_line({"scores": [{}, {"ratio": math.nan}]}, "question 7")
    assert error.value.reason == "not_finite"
    assert dump_line({"a": "é", "b": 1.5}, "it") == '{"a": "é", "b": 1.5}\n'
    assert finite({"a": [math.nan, 1.0, (math.inf,)], "b": "nan"}) == {"a": [None, 1.0, [None]], "b": "nan"}


def test_values_are_shown_short_and_printable() -> None:
    assert short("x" * 100) == "'" + "x" * 76 + "..." and short("\ud800") == "'\\ud800'" and short([1]) == "[1]"
