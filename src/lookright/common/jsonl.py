"""JSON-lines files: read with the place of every line, appended to until a kill, or written whole."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lookright.common.files import naming, whole_file
from lookright.common.strict_json import dump_line, parse_json, short
from lookright.errors import ConfigError, RecordError

MAX_LINE_BYTES = 2**28
"""256 MiB: a record with its pictures in base64 may be long, a file without line feeds is none of records."""
Kinds = Mapping[str, type | tuple[type, ...]]
"""Keys and the types of their values; `float` takes whole numbers too, no kind but `bool` takes true or false."""
Check = Callable[[Any], None]
"""Raises RecordError for a line that is not what it should be."""


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """`file:line` and bytes of every line that is not blank. Raises ConfigError for what is no file, or no lines."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file" if not path.exists() else f"{path} is no regular file; set a file")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ConfigError(
                        f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes; write one record a line"
                    )
                if line.strip():
                    yield f"{path}:{number}", line
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error})") from error


def check_id(line: Any) -> None:
    """Raise RecordError for what is no object with an `id` in text."""
    check_kinds(line, {"id": str})


def check_kinds(value: Any, kinds: Kinds, optional: Kinds | None = None) -> None:
    """Raise RecordError (reason `malformed`) for what is no object, lacks a key of `kinds`, or has another type."""
    if not isinstance(value, dict):
        raise RecordError("malformed", f"the line holds a json {type(value).__name__}, not an object")
    for key, kind in {**kinds, **(optional or {})}.items():
        if key not in value:
            if key in kinds:
                raise RecordError("malformed", f"the key {key!r} is missing")
        elif not _is_of(value[key], kind if isinstance(kind, tuple) else (kind,)):
            raise RecordError("malformed", f"{key}={short(value[key])} is {type(value[key]).__name__}")


def _is_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def cut_torn_line(path: Path) -> int:
    """Cut a last line without line feed, as a killed writer leaves it; returns the bytes cut."""
    with path.open("rb+") as file:
        position = size = file.seek(0, os.SEEK_END)
        while position:
            step = min(65536, position)
            file.seek(position - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                position = position - step + found + 1
                break
            position -= step
        file.truncate(position)
    return size - position


class AppendOnly:
    """A `.jsonl` file with an `id` in each line. A torn last line, as a kill leaves it, is cut on opening.

    `done` holds the ids that are in the file. A line is on its way to the disk when `add` returns.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            path.touch()
            cut_torn_line(path)
        self.path = path
        self.done: set[str] = {line["id"] for line in read_lines(path)}
        self._file = path.open("a", encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append one record; an id that is there already is a defect of the caller.

        Raises RecordError for a number that is not finite.
        """
        assert line["id"] not in self.done, f"{line['id']} was written before"
        text = dump_line(line, f"{self.path}: the line of {line['id']}")
        with naming(self.path):
            self._file.write(text)
            self._file.flush()
        self.done.add(line["id"])

    def __enter__(self) -> "AppendOnly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming(self.path):
            self._file.close()


def read_lines(path: Path, check: Check = check_id) -> Iterator[dict[str, Any]]:
    """Every line of a JSON-lines file as a dictionary that `check` lets pass.

    Raises RecordError naming file, line and what to do.
    """
    for where, line in numbered_lines(path):
        yield _placed(where, line, check)


def _placed(where: str, line: bytes, check: Check) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse_json(line)
        check(found)
    except RecordError as error:
        raise RecordError(
            error.reason, f"{where}: {error}; the file is damaged: repair the line, or make the file again"
        ) from error
    return found


class LinesById:
    """Lines of a JSON-lines file by their `id`, read when they are asked for: ids and places alone are held.

    Raises RecordError naming file and line.
    """

    def __init__(self, path: Path, check: Check = check_id) -> None:
        self._check = check
        self._places: dict[str, tuple[int, int]] = {}
        place = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._places[_placed(f"{path}:{number}", line, check)["id"]] = place, number
                place += len(line)
        self._path, self._file = path, path.open("rb")

    def get(self, line_id: str) -> dict[str, Any] | None:
        """Return the last line with this id, None where there is none."""
        if line_id not in self._places:
            return None
        place, number = self._places[line_id]
        self._file.seek(place)
        return _placed(f"{self._path}:{number}", self._file.readline(), self._check)

    def __enter__(self) -> "LinesById":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Lines into a file that is there whole or not at all, whenever the process is killed."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
