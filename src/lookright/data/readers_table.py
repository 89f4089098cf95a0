"""Hugging Face datasets on disk and parquet files: `images, prompt, chosen, rejected`, also as messages."""

import bisect
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from lookright.data.pictures import embedded
from lookright.data.records import preference_from_dict
from lookright.errors import ConfigError, RecordError
from lookright.types import IMAGE_PLACEHOLDER, Preference

COLUMNS = ("images", "prompt", "chosen", "rejected")
OPTIONAL = ("format", "target", "regions")
_READING = Lock()
"""Held while a row group is read, so that threads that want the same one read it once; of no table, which pickle."""


class Table(Protocol):
    """Random access to rows; pictures stay encoded and on disk until they are asked for."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> dict[str, Any]:
        """All cells of one row."""
        ...

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        ...


class ParquetTable:
    """One parquet file or a folder of them in the order of their names; holds two row groups in memory.

    Two, since threads that read rows in order meet where one group ends and the next begins.
    """

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ConfigError(
                f"data.path={path}: parquet files need the package pyarrow: pip install pyarrow"
            ) from error
        self._parquet = parquet.ParquetFile
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        self._held: dict[int, Any] = {}
        for file_path in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            self._add_file(file_path)

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, number: int) -> dict[str, Any]:
        """All cells of one row."""
        group = bisect.bisect_right(self._starts, number) - 1
        return self._group(group).slice(number - self._starts[group], 1).to_pylist()[0]

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        return as_list(self.row(number)["images"])

    def _add_file(self, path: Path) -> None:
        try:
            file = self._parquet(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a parquet file ({error})") from error
        require_columns(file.schema_arrow.names, path)
        for group in range(file.num_row_groups):
            self._groups.append((path, group))
            self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)

    def _group(self, number: int) -> Any:
        """The file is opened anew for each group and read by this thread: safe in worker processes."""
        with _READING:
            if number not in self._held:
                path, group = self._groups[number]
                if len(self._held) == 2:
                    self._held.pop(next(iter(self._held)))
                self._held[number] = self._parquet(path).read_row_group(group, use_threads=False)
            return self._held[number]


class DatasetTable:
    """A folder written by `datasets.Dataset.save_to_disk`; memory-mapped."""

    def __init__(self, path: Path) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(f"data.path={path} needs the package datasets: pip install datasets") from error
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            raise ConfigError(
                f"data.path={path} holds the splits {', '.join(loaded)}: set data.path={path / next(iter(loaded))}"
            )
        require_columns(loaded.column_names, path)
        self._rows = loaded.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> dict[str, Any]:
        """All cells of one row."""
        return self._rows[number].to_pylist()[0]

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        return as_list(self.row(number)["images"])


def require_columns(names: list[str], path: Path) -> None:
    """Raise ConfigError for a table without the columns of a preference."""
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ConfigError(f"{path}: the column {missing[0]!r} is missing; found {', '.join(names)}")


def table_preference(data: dict[str, Any], number: int) -> Preference:
    """One row as a preference; embedded pictures are named `#<row>/<n-th>`. Raises RecordError."""
    cells = as_list(data["images"])
    prompt, placed = prompt_text(data["prompt"], len(cells))
    extra = {key: data[key] for key in OPTIONAL if data.get(key) is not None}
    rejected = data["rejected"]
    several = isinstance(rejected, list) and not _is_messages(rejected)
    return preference_from_dict(
        {
            "id": str(number if data.get("id") is None else data["id"]),
            "images": [_picture_name(cell, number, nth) for nth, cell in enumerate(cells)],
            "prompt": prompt,
            "chosen": answer_text(data["chosen"]),
            "rejected": [answer_text(item) for item in rejected] if several else answer_text(rejected),
            "provenance": {"placeholders": "placed"} if placed else {},
            **extra,
        }
    )


def prompt_text(value: Any, num_pictures: int) -> tuple[str, bool]:
    """Text of a prompt and whether placeholders were put before it.

    They are where a message is plain text without any: there the pictures belong before the text by
    convention. A plain string is taken as it is.
    """
    if not _is_messages(value):
        return value, False
    if len(value) != 1 or value[0].get("role") != "user":
        roles = ", ".join(str(message.get("role")) for message in value)
        raise RecordError("messages", f"a prompt is one message of the user, found: {roles}")
    content = value[0].get("content")
    if isinstance(content, str) and IMAGE_PLACEHOLDER not in content:
        return f"{IMAGE_PLACEHOLDER}\n" * num_pictures + content, True
    return _content_text(content), False


def answer_text(value: Any) -> str:
    """Text of an answer: a string, or one message of the assistant. Raises RecordError."""
    if not _is_messages(value):
        return value
    if len(value) != 1 or value[0].get("role") != "assistant":
        roles = ", ".join(str(message.get("role")) for message in value)
        raise RecordError("messages", f"an answer is one message of the assistant, found: {roles}")
    return _content_text(value[0].get("content"))


def as_list(value: Any) -> list[Any]:
    """A column of one picture a row as a list; no picture as an empty one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RecordError("messages", f"the content of a message is {type(content).__name__}, not text or parts")
    return "".join(_part_text(part) for part in content).strip()


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return f"{IMAGE_PLACEHOLDER}\n"
    if kind != "text":
        raise RecordError("messages", f"a part of a message has the type {kind!r}; valid are text and image")
    return part.get("text") or ""


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _picture_name(cell: Any, number: int, nth: int) -> str:
    if isinstance(cell, str):
        return cell
    if embedded(cell):
        return f"#{number}/{nth}"
    path = cell.get("path") if isinstance(cell, dict) else None
    if not isinstance(path, str):
        raise RecordError("picture", f"images[{nth}] holds neither bytes nor a path")
    return path
