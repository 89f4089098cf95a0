"""Hugging Face datasets on disk and parquet files: random access to their rows."""

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from lookright.common.pictures import leaves_folder
from lookright.common.strict_json import read_object, short
from lookright.errors import ConfigError, RecordError
from lookright.records.pictures import picture_cells

INFO_FILE, STATE_FILE, SPLITS_FILE = "dataset_info.json", "state.json", "dataset_dict.json"
"""What `save_to_disk` writes beside a dataset's Arrow files, and above the folders of several splits."""
LONGEST_NAME = 200
"""Characters of a file's name; file systems take 255 bytes."""
_READING = Lock()
"""Held while a row group is read, so that threads that want the same one read it once; of no table, which pickle."""


class Table(Protocol):
    """Random access to rows; pictures stay encoded and on disk until they are asked for."""

    columns: list[str]
    """Names of the columns that every row has."""

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
        with _readable(f"{self._groups[group][0]}: row {number}"):
            return self._group(group).slice(number - self._starts[group], 1).to_pylist()[0]

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        return picture_cells(self.row(number))

    def _add_file(self, path: Path) -> None:
        try:
            file = self._parquet(path)
            names = file.schema_arrow.names
        except Exception as error:  # Arrow has errors of its own for each kind of damage
            raise ConfigError(f"{path}: not a parquet file ({_first_line(error)}); fetch it again") from error
        self.columns: list[str] = [name for name in names if not self._groups or name in self.columns]
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
        for file in _saved_files(path):
            _check_arrow(file, path)
        try:
            loaded = datasets.Dataset.load_from_disk(str(path))
        except Exception as error:  # of Arrow and their own
            raise _damaged_dataset(path, error) from error
        self._path, self.columns = path, loaded.column_names
        self._rows = loaded.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> dict[str, Any]:
        """All cells of one row."""
        with _readable(f"{self._path}: row {number}"):
            return self._rows[number].to_pylist()[0]

    def images(self, number: int) -> list[Any]:
        """The picture cells of one row."""
        return picture_cells(self.row(number))


def _saved_files(path: Path) -> list[Path]:
    """The Arrow files of a saved dataset. Raises ConfigError for damaged settings, and a name of a file elsewhere."""
    where, remedy = f"data.path={path}", "save the dataset again"
    if not (path / STATE_FILE).is_file() and (path / SPLITS_FILE).is_file():
        splits = read_object(path / SPLITS_FILE, remedy).get("splits")
        if not isinstance(splits, list) or not splits or not all(isinstance(name, str) for name in splits):
            raise ConfigError(f"{where}: {SPLITS_FILE} lists no splits by name; {remedy}")
        raise ConfigError(f"{where} holds the splits {', '.join(splits)[:200]}: set data.path={path / splits[0]}")
    read_object(path / INFO_FILE, remedy)
    listed = read_object(path / STATE_FILE, remedy).get("_data_files")
    files: list[Path] = []
    for one in listed if isinstance(listed, list) else [None]:
        name = one.get("filename") if isinstance(one, dict) else None
        if not isinstance(name, str) or Path(name).name != name or leaves_folder(name) or len(name) > LONGEST_NAME:
            raise ConfigError(f"{where}: {STATE_FILE} names {short(name)}, which is no file beside it; {remedy}")
        if not (path / name).is_file() or path / name in files:
            fault = "twice" if path / name in files else "which is not there"
            raise ConfigError(f"{where}: {STATE_FILE} names {short(name)}, {fault}; {remedy}")
        files.append(path / name)
    return files


def _check_arrow(file: Path, path: Path) -> None:
    """Raise ConfigError for a file of which a column points elsewhere: reading it would end the process.

    One pass over offsets and texts; bytes of pictures stay on disk.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            for batch in batches:
                batch.validate(full=True)
    except Exception as error:
        raise _damaged_dataset(path, error) from error


def _damaged_dataset(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"data.path={path}: the saved dataset is damaged ({_first_line(error)}); save it again")


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn what Arrow raises over damaged pages, or text that is not UTF-8, into a RecordError (reason `table`)."""
    try:
        yield
    except RecordError:
        raise
    except Exception as error:
        raise RecordError("table", f"{where} cannot be read ({_first_line(error)}); fetch the file again") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    # bytes that are no text come out as halves of surrogate pairs, which no terminal shows
    return f"{type(error).__name__}: {lines[0][:200].encode('utf-8', 'backslashreplace').decode()}"


def no_file(path: Path) -> ConfigError:
    """What to raise for a path that is not there; one from the config of another run may be of another folder."""
    where, remedy = "", ""
    if not path.is_absolute():
        where, remedy = f" in {Path.cwd()}", ", or start from the folder that this path is of"
    return ConfigError(f"data.path={path}: no such file{where}; set data.path to one that is there{remedy}")


def open_table(path: Path) -> Table | None:
    """The table at a path, None for a path of another kind. Raises ConfigError."""
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        if not path.exists():
            raise no_file(path)
        return ParquetTable(path)
    return DatasetTable(path) if path.is_dir() and _is_dataset(path) else None


def _is_dataset(path: Path) -> bool:
    if not any((path / name).is_file() for name in (INFO_FILE, SPLITS_FILE)):
        raise ConfigError(f"data.path={path}: the folder holds neither parquet files nor a saved dataset; set a file")
    return True
