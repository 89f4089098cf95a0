"""Lines found by their id."""

import json
import os
from pathlib import Path

import pytest

from lookright.common.jsonl import AppendOnly, LinesById, numbered_lines, read_lines
from lookright.errors import ConfigError, RecordError


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "b", "text": "caf\xe9"}', r":2: not valid json in UTF-8: byte 24 is 0xe9 .*save the file as UTF-8"),
        (b'{"id": 3}', ":2: id=3 is int; the file is damaged: repair the line, or make the file again"),
        (b'{"text": "b"}', ":2: the key 'id' is missing"),
        (b"[1]", ":2: the line holds a json list, not an object"),
        (b'{"id": "b"', ":2: not valid json"),
    ],
)
def test_a_damaged_line_is_named_with_file_and_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line + b'\n{"id": "c"}\n')
    for read in (lambda: list(read_lines(path)), lambda: LinesById(path), lambda: AppendOnly(path)):
        with pytest.raises(RecordError, match=f"^{path}{message}"):
            read()


def test_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    """Carriage returns belong to the line end or to nobody; other scripts stay; U+2028 ends no line."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"id": "é\u2028"}\r\n\r\n \n{"id": "b"}'.encode())
    assert [line["id"] for line in read_lines(path)] == ["é\u2028", "b"]
    assert [where for where, _ in numbered_lines(path)] == [f"{path}:1", f"{path}:4"]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, message in (("pipe.jsonl", "is no regular file"), ("gone.jsonl", ": no such file")):
        with pytest.raises(ConfigError, match=f"{name}.?{message}"):
            list(numbered_lines(tmp_path / name))


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookright.common.jsonl.MAX_LINE_BYTES", 100)
    (tmp_path / "it.jsonl").write_bytes(b'{"id": "a"}\n' + b" " * 101)
    with pytest.raises(ConfigError, match=r"it.jsonl:2: the line is longer than 100 bytes; write one record a line"):
        list(numbered_lines(tmp_path / "it.jsonl"))


def test_a_number_that_is_none_is_an_error_with_its_line(tmp_path: Path) -> None:
    with (
        AppendOnly(tmp_path / "it.jsonl") as written,
        pytest.raises(RecordError, match="it.jsonl: the line of a: ratio is nan, which json cannot hold"),
    ):
        written.add({"id": "a", "ratio": float("nan")})
    assert (tmp_path / "it.jsonl").read_bytes() == b""
