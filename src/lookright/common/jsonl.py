"""JSON-lines files: read with the place of every line, appended to until a kill, or written whole."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from lookright.errors import ConfigError, RecordError


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`file:line` and text of every line that is not blank. Raises ConfigError for a missing file."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line


def parse_line(line: str) -> Any:
    """One json value. Raises RecordError (reason `json`)."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise RecordError("json", f"not valid json ({error}): {line.strip()[:80]!r}") from error


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
        path.touch()
        cut_torn_line(path)
        self.path = path
        self.done = {parse_line(line)["id"] for _, line in numbered_lines(path)}
        self._file = path.open("a", encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append one record; an id that is there already is a defect of the caller."""
        assert line["id"] not in self.done, f"{line['id']} was written before"
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        self.done.add(line["id"])

    def __enter__(self) -> "AppendOnly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a JSON-lines file as a dictionary."""
    for _, line in numbered_lines(path):
        yield parse_line(line)


class LinesById:
    """Lines of a JSON-lines file by their `id`, read when they are asked for: ids and places alone are held."""

    def __init__(self, path: Path) -> None:
        self._places: dict[str, int] = {}
        with path.open("rb") as file:
            place = 0
            for line in file:
                if line.strip():
                    self._places[parse_line(line.decode("utf-8", "replace"))["id"]] = place
                place += len(line)
        self._file = path.open("rb")

    def get(self, line_id: str) -> dict[str, Any] | None:
        """Return the last line with this id, None where there is none."""
        if line_id not in self._places:
            return None
        self._file.seek(self._places[line_id])
        return parse_line(self._file.readline().decode("utf-8", "replace"))

    def __enter__(self) -> "LinesById":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Lines into a file that is there whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
