"""One door to records of every form; every record is checked before it comes out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

from lookright.common.jsonl import numbered_lines
from lookright.common.path_map import PathMap
from lookright.common.ranks import rank_zero_info, rank_zero_only
from lookright.common.streams import in_threads, progress
from lookright.common.strict_json import parse_json, read_json
from lookright.errors import ConfigError, RecordError
from lookright.records.forms import (
    Form,
    LlavaPrompt,
    OwnPreference,
    OwnPrompt,
    PublishedPreference,
    PublishedPrompt,
    Row,
    find_form,
    listed,
)
from lookright.records.forms_trainers import AlpacaPreference, ShareGptPreference, SwiftPreference, TrlPreference
from lookright.records.geometry import INFERRED
from lookright.records.known_ids import KnownIds
from lookright.records.pictures import HeldCells, PictureFolder, Pictures, TablePictures
from lookright.records.records import Record, RecordType
from lookright.records.tables import Table, no_file, open_table
from lookright.records.validate import BadRecords, OnBadRecord, check_record
from lookright.types import Preference, Prompt

PREFERENCES: tuple[Form[Preference], ...] = (
    OwnPreference(),
    PublishedPreference(),
    SwiftPreference(),
    ShareGptPreference(),
    AlpacaPreference(),
    TrlPreference(),
)
PROMPTS: tuple[Form[Prompt], ...] = (OwnPrompt(), PublishedPrompt(), LlavaPrompt())

Entry = tuple[str, int, Callable[[], Any]]
"""Where a row lies, its number, and its raw value (may raise RecordError)."""

BAR_AFTER = 2.0
"""Seconds of checking from which on a progress bar is shown."""


@dataclass(slots=True, frozen=True, kw_only=True)
class RecordSet(Generic[RecordType]):
    """Checked records, what opens their pictures, and how many were left out under each reason."""

    records: list[RecordType]
    pictures: Pictures
    dropped: Counter[str]


@dataclass(slots=True, kw_only=True)
class _Examined:
    """A row: the record or what is wrong with it, its own id where it could be read, its form."""

    where: str
    outcome: Record | RecordError
    id: str | None = None
    may_repeat: bool = True
    counts: Counter[str] = field(default_factory=Counter)


def load_preferences(
    path: str | Path,
    image_root: str | Path | None = None,
    on_bad_record: OnBadRecord = "error",
    path_map: PathMap | None = None,
    ids: KnownIds | None = None,
    forms: Sequence[Form[Preference]] = (),
) -> RecordSet[Preference]:
    """Return preference records, each read by the first of `forms` and `PREFERENCES` that has its keys.

    A `.jsonl` or `.json` file, a parquet file, a folder of parquet files, or a folder of `datasets`. Image paths
    are moved by `path_map` and start from `image_root`, else from the file's folder. `ids` are those of files
    loaded before. Raises ConfigError for the file and LookRightError for its records.
    """
    return _Load(Path(path), image_root, path_map, ids, (*forms, *PREFERENCES), PROMPTS).run(on_bad_record)


def load_prompts(
    path: str | Path,
    image_root: str | Path | None = None,
    on_bad_record: OnBadRecord = "error",
    path_map: PathMap | None = None,
    ids: KnownIds | None = None,
    forms: Sequence[Form[Prompt]] = (),
) -> RecordSet[Prompt]:
    """Return prompts with ground truth, read by `forms` and `PROMPTS`; else as `load_preferences`."""
    return _Load(Path(path), image_root, path_map, ids, (*forms, *PROMPTS), PREFERENCES).run(on_bad_record)


class _Load:
    """One file on its way in; `others` are forms that are known but of another kind of record."""

    def __init__(
        self,
        path: Path,
        image_root: str | Path | None,
        path_map: PathMap | None,
        ids: KnownIds | None,
        forms: Sequence[Form[Any]],
        others: Sequence[Form[Any]],
    ) -> None:
        self.path, self.forms, self.others = path, forms, others
        self.path_map = PathMap() if path_map is None else path_map
        self.ids = KnownIds() if ids is None else ids
        folder = PictureFolder(_image_root(path, image_root), self.path_map.folders)
        self.table = open_table(path)
        self.held = HeldCells()
        self.pictures = TablePictures(self.held if self.table is None else self.table, folder)
        if self.table is not None:
            self.forms = [_table_form(path, self.table, forms)]

    def run(self, on_bad_record: OnBadRecord) -> RecordSet[Any]:
        """Everything that is right with the file. Raises LookRightError for what is not."""
        bad, elsewhere = BadRecords(on_bad_record), BadRecords(on_bad_record)
        entries = list(_json_entries(self.path) if self.table is None else _table_entries(self.path, self.table))
        if not entries:
            raise ConfigError(f"data.path={self.path}: the file holds no record")
        records: list[Any] = []
        counts: Counter[str] = Counter()
        self.ids.open(self.path)
        for found in self._examined(entries):
            number = self.ids.see(found.id) if found.id is not None else 1
            if isinstance(found.outcome, RecordError):
                bad.add(found.where, found.outcome)
                continue
            try:
                records.append(self._claimed(found, found.outcome, number))
                counts += found.counts
            except RecordError as error:
                # a file that another one holds already may be left out as a whole
                if self.ids.is_elsewhere(found.outcome.id):
                    elsewhere.add(f"{self.path} (id {found.outcome.id})", error)
                else:
                    bad.add(found.where, error)
        bad.finish(len(entries))
        elsewhere.finish(len(entries), may_be_all=True)
        self._tell(records, counts)
        return RecordSet(records=records, pictures=self.pictures, dropped=bad.counts + elsewhere.counts + counts)

    def _claimed(self, found: _Examined, record: Record, number: int) -> Record:
        """The record under an id that no other has; what its file calls it goes into the provenance."""
        name = self.ids.claim(record.id, number, found.where, found.may_repeat)
        if name == record.id:
            return record
        return replace(record, id=name, provenance=record.provenance | {"original_id": record.id})

    def _examined(self, entries: Sequence[Entry]) -> Iterator[_Examined]:
        """Every row in order; pictures are decoded in threads."""
        examined = in_threads(self._examine, entries)
        if getattr(rank_zero_only, "rank", 0) == 0:
            examined = progress(examined, len(entries), f"check {self.path.name}", delay=BAR_AFTER)
        return examined

    def _examine(self, entry: Entry) -> _Examined:
        where, number, load = entry
        found = _Examined(where=where, outcome=RecordError("malformed", "not read"))
        try:
            data = load()
            form = self.forms[0] if self.table is not None else find_form(data, self.forms, self.others)
            found.may_repeat = form.may_repeat_ids
            row = Row(data=data, number=number, pictures=self.pictures, path_map=self.path_map, held=self.held)
            if form.may_repeat_ids:
                found.id = row.id
            record = form.read(row)
            found.where = f"{where} (id {record.id})"
            check_record(record, self.pictures)
            found.outcome, found.counts = record, row.counts
        except RecordError as error:
            found.outcome = error
        return found

    def _tell(self, records: Sequence[Record], counts: Counter[str]) -> None:
        """What was done to a file from elsewhere, a line each."""
        _tell_inferred(self.path, records)
        renamed = sum("original_id" in record.provenance for record in records)
        if renamed:
            rank_zero_info(
                f"{self.path}: {renamed} records have an id that came before; by their place they are told apart as "
                "ID#2, ID#3 and so on"
            )
        if counts["further_turns"]:
            rank_zero_info(
                f"{self.path}: the first turn of each row is taken; {counts['further_turns']} further turns are left "
                "out (further_turns)"
            )


def _tell_inferred(path: Path, records: Iterable[Record]) -> None:
    """Log which formats were inferred, and for how many records no geometry could be."""
    inferred = [record for record in records if record.provenance.items() >= INFERRED.items()]
    if not inferred:
        return
    counts = Counter(record.format for record in inferred)
    unknown = sum(record.target is None for record in inferred)
    rank_zero_info(
        f"{path}: {len(inferred)} records name no format; inferred from prompts and pictures: "
        f"{', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}; "
        f"{unknown} of them without a target region"
    )


def _json_entries(path: Path) -> Iterator[Entry]:
    if path.suffix == ".jsonl" and path.is_file():
        for number, (where, line) in enumerate(numbered_lines(path)):
            yield where, number, partial(parse_json, line)
        return
    if path.suffix != ".json" or not path.is_file():
        raise ConfigError(f"data.path={path}: not a .jsonl or .json file") if path.exists() else no_file(path)
    data = read_json(path, "it holds one list of records", f"data.path={path}")
    if not isinstance(data, list):
        raise ConfigError(f"data.path={path}: found a json {type(data).__name__}, the file holds one list of records")
    for number, item in enumerate(data):
        yield f"{path} record {number}", number, partial(_same, item)


def _table_entries(path: Path, table: Table) -> Iterator[Entry]:
    for number in range(len(table)):
        yield f"{path} row {number}", number, partial(table.row, number)


def _table_form(path: Path, table: Table, forms: Sequence[Form[Any]]) -> Form[Any]:
    """The form of all rows, told by the columns and the first row. Raises ConfigError that lists the forms."""
    first = table.row(0) if len(table) else {}
    data = {name: first.get(name) for name in table.columns}
    # our own files are json lines; a table with their columns is read with embedded pictures
    fitting = [form for form in forms if form.may_repeat_ids]
    for form in fitting:
        if form.matches(data):
            return form
    raise ConfigError(f"data.path={path}: no form has the columns {', '.join(data)}; {listed(fitting)}")


def _image_root(path: Path, image_root: str | Path | None) -> Path:
    if image_root is None:
        return path if path.is_dir() else path.parent
    if not Path(image_root).is_dir():
        raise ConfigError(f"data.image_root={image_root}: no such folder")
    return Path(image_root)


def _same(item: Any) -> Any:
    return item
