"""Ids over all files of one data set: what repeats in files of others is told apart, in ours it is an error."""

from collections import Counter
from pathlib import Path

from lookright.errors import RecordError


class KnownIds:
    """Gives every record an id of its own.

    Published rows have the id of the question they come from, which formats, turns and files share. The n-th row
    of an id, broken rows counted too, so that a repaired one changes no other, gets `ID#n`; the first keeps `ID`.
    """

    def __init__(self) -> None:
        self._file = Path()
        self._times: Counter[str] = Counter()
        self._places: dict[str, tuple[Path, str]] = {}

    def open(self, path: Path) -> None:
        """Go on with the next file."""
        self._file = path

    def see(self, record_id: str) -> int:
        """Count a row of others under its own id; which of them it is, from 1."""
        self._times[record_id] += 1
        return self._times[record_id]

    def claim(self, record_id: str, number: int, where: str, may_repeat: bool) -> str:
        """An id that no record had before. Raises RecordError (reason `duplicate_id`) where ids may not repeat."""
        name = record_id if number == 1 else f"{record_id}#{number}"
        while may_repeat and name in self._places:
            name = f"{name}#2"
        if name in self._places:
            path, place = self._places[name]
            known = f"was already used at {place}" if path == self._file else f"is also in {path}"
            raise RecordError("duplicate_id", f"the id {known}")
        self._places[name] = self._file, where
        return name

    def is_elsewhere(self, record_id: str) -> bool:
        """Whether a record of an earlier file has the id."""
        known = self._places.get(record_id)
        return known is not None and known[0] != self._file
