"""Lines found by their id."""

import json
from pathlib import Path

import pytest

from lookright.common.jsonl import LinesById
from lookright.errors import RecordError


def test_lines_in_any_order(tmp_path: Path) -> None:
    lines = [{"id": f"q{number}", "text": "é" * number} for number in range(30)]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    with LinesById(path) as found:
        assert [found.get(line["id"]) for line in lines[::-1]] == lines[::-1]
        assert found.get("q30") is None


def test_the_last_line_of_an_id_counts_and_a_torn_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": "a", "n": 1}\n{"id": "a", "n": 2}\n')
    with LinesById(path) as found:
        assert found.get("a") == {"id": "a", "n": 2}
    path.write_text('{"id": "a", "n"')
    with pytest.raises(RecordError, match="not valid json"):
        LinesById(path)
