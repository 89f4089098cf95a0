"""One door to records of every kind; every record is checked before it comes out."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lookright.data.geometry import INFERRED
from lookright.data.pictures import PictureFolder, Pictures, TablePictures
from lookright.data.readers_published import llava_prompt, published_preference
from lookright.data.readers_table import DatasetTable, ParquetTable, Table, table_preference
from lookright.data.records import (
    Record,
    RecordType,
    numbered_lines,
    parse_line,
    preference_from_dict,
    prompt_from_dict,
)
from lookright.data.validate import BadRecords, OnBadRecord, check_record
from lookright.errors import ConfigError, RecordError
from lookright.streams import in_threads, progress
from lookright.types import Preference, Prompt

Entry = tuple[str, Callable[[], Any]]
"""Where a record lies, and its raw value (may raise RecordError)."""

BAR_AFTER = 2.0
"""Seconds of checking from which on a progress bar is shown."""


@dataclass(slots=True, frozen=True, kw_only=True)
class RecordSet(Generic[RecordType]):
    """Checked records, what opens their pictures, and how many were left out under each reason."""

    records: list[RecordType]
    pictures: Pictures
    dropped: Counter[str]


def load_preferences(
    path: str | Path, image_root: str | Path | None = None, on_bad_record: OnBadRecord = "error"
) -> RecordSet[Preference]:
    """Preference records as they are, told apart by their keys.

    A `.jsonl` or `.json` file of ours or of MIA-DPO / AA-DPO, a parquet file, a folder of parquet files, or
    a folder of `datasets`. Image paths start from `image_root`, else from the file's folder. Raises
    ConfigError for the file and LookRightError for its records.
    """
    path = Path(path)
    folder = PictureFolder(_image_root(path, image_root))
    table = _table(path)
    if table is not None:
        rows = range(len(table))
        entries = ((f"{path} row {row}", lambda row=row: table_preference(table.row(row), row)) for row in rows)
        return _collect(path, entries, TablePictures(table, folder), on_bad_record)
    converted = ((where, lambda read=read: _to_preference(read(), folder)) for where, read in _json_entries(path))
    return _collect(path, converted, folder, on_bad_record)


def load_prompts(
    path: str | Path, image_root: str | Path | None = None, on_bad_record: OnBadRecord = "error"
) -> RecordSet[Prompt]:
    """Prompts with ground truth: `instructions.jsonl` of ours or LLaVA json; else as `load_preferences`."""
    path = Path(path)
    folder = PictureFolder(_image_root(path, image_root))
    converted = ((where, lambda read=read: _to_prompt(read(), folder)) for where, read in _json_entries(path))
    return _collect(path, converted, folder, on_bad_record)


def _collect(path: Path, entries: Iterator[Entry], pictures: Pictures, on_bad_record: OnBadRecord) -> RecordSet[Any]:
    bad = BadRecords(on_bad_record)
    records: dict[str, Any] = {}
    first_seen: dict[str, str] = {}
    listed = list(entries)
    num_records = len(listed)
    for where, found in _examined(path, listed, pictures):
        if isinstance(found, RecordError):
            bad.add(where, found)
        elif found.id in first_seen:
            bad.add(where, RecordError("duplicate_id", f"the id was already used at {first_seen[found.id]}"))
        else:
            first_seen[found.id] = where
            records[found.id] = found
    if not num_records:
        raise ConfigError(f"data.path={path}: the file holds no record")
    bad.finish(num_records)
    _tell_inferred(path, records.values())
    return RecordSet(records=list(records.values()), pictures=pictures, dropped=bad.counts)


def _examined(path: Path, entries: Sequence[Entry], pictures: Pictures) -> Iterator[tuple[str, Record | RecordError]]:
    """Every record, or what is wrong with it, and where it lies; pictures are decoded in threads."""

    def examine(entry: Entry) -> tuple[str, Record | RecordError]:
        where, read = entry
        try:
            record = read()
            where = f"{where} (id {record.id})"
            check_record(record, pictures)
        except RecordError as error:
            return where, error
        return where, record

    examined = in_threads(examine, entries)
    if rank_zero_only.rank == 0:
        examined = progress(examined, len(entries), f"check {path.name}", delay=BAR_AFTER)
    return examined


def _tell_inferred(path: Path, records: Iterable[Record]) -> None:
    """Log which formats were inferred, and for how many records no geometry could be."""
    inferred = [record for record in records if record.provenance.items() >= INFERRED.items()]
    if not inferred:
        return
    counts = Counter(record.format for record in inferred)
    unknown = sum(record.target is None for record in inferred)
    rank_zero_info(
        f"{path}: {len(inferred)} records name no format; inferred from prompts and picture sizes: "
        f"{', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}; "
        f"{unknown} of them without a target region"
    )


def _json_entries(path: Path) -> Iterator[Entry]:
    if path.suffix == ".jsonl" and path.is_file():
        for where, line in numbered_lines(path):
            yield where, lambda line=line: parse_line(line)
        return
    if path.suffix != ".json" or not path.is_file():
        found = "no such file" if not path.exists() else "not a .jsonl or .json file"
        raise ConfigError(f"data.path={path}: {found}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"data.path={path}: not valid json ({error})") from error
    if not isinstance(data, list):
        raise ConfigError(f"data.path={path}: found a json {type(data).__name__}, the file holds one list of records")
    for number, item in enumerate(data):
        yield f"{path} record {number}", lambda item=item: item


def _to_preference(data: Any, pictures: Pictures) -> Preference:
    if isinstance(data, dict) and "conversations" in data:
        raise RecordError(
            "malformed", "a LLaVA row (`conversations`) is a prompt, not a preference: use source=llava_json"
        )
    if isinstance(data, dict) and "image" in data:
        return published_preference(data, pictures)
    return preference_from_dict(data)


def _to_prompt(data: Any, pictures: Pictures) -> Prompt:
    if isinstance(data, dict) and "conversations" in data:
        return llava_prompt(data, pictures)
    return prompt_from_dict(data)


def _table(path: Path) -> Table | None:
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        if not path.exists():
            raise ConfigError(f"data.path={path}: no such file")
        return ParquetTable(path)
    return DatasetTable(path) if path.is_dir() and _is_dataset(path) else None


def _is_dataset(path: Path) -> bool:
    if not any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise ConfigError(f"data.path={path}: the folder holds neither parquet files nor a saved dataset; set a file")
    return True


def _image_root(path: Path, image_root: str | Path | None) -> Path:
    if image_root is None:
        return path if path.is_dir() else path.parent
    if not Path(image_root).is_dir():
        raise ConfigError(f"data.image_root={image_root}: no such folder")
    return Path(image_root)
