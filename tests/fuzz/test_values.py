"""Values of any kind and depth in the place of any key, made and made smaller by hypothesis: what is taken is right."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookright.common.strict_json import parse_json
from lookright.errors import RecordError
from tests.fuzz import plain
from tests.fuzz.readers import READERS, prepare

TEXTS = st.text(max_size=12) | st.sampled_from(["a.png", "b.png", "<image>", "<image>\nWhat?", "x", "In Image2, what?"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
IN_LINES = ("pairs", "published", "trainers", "questions", "lines", "answers", "predictions")
"""Readers of files with one json value a line."""


@pytest.mark.parametrize("name", IN_LINES)
def test_any_value_under_any_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKRIGHT_CACHE", "")
    reader = READERS[name]
    rows = [json.loads(line) for seed in reader.seeds for line in seed.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))

        @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(rows), st.data(), VALUES)
        def check(row: dict[str, Any], data: st.DataObject, value: Any) -> None:
            key = data.draw(st.sampled_from([*row, "extra"]))
            line = json.dumps(row | {key: value}, ensure_ascii=data.draw(st.booleans()))
            _, finding = reader.run(line.encode("utf-8", "surrogatepass") + b"\n", Path(folder))
            assert finding is None, f"{finding.kind}\n{finding.detail}"

        check()


@settings(max_examples=2000, deadline=None, database=None)
@given(VALUES)
def test_json_is_read_as_python_reads_it_or_refused(value: Any) -> None:
    data = json.dumps(value).encode()
    try:
        expected = plain.json_value(data)
    except (AssertionError, UnicodeEncodeError, ValueError):
        expected = AssertionError
    try:
        found = parse_json(data)
    except RecordError:
        # refused beside what the plain reading refuses: NUL characters, and numbers beyond 64 bits
        assert expected is AssertionError or b"\\u0000" in data or any(abs(n) >= 2**63 for n in _integers(value))
    else:
        assert found == expected


def _integers(value: Any) -> list[int]:
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in _integers(item)]
    return [value] if isinstance(value, int) else []
