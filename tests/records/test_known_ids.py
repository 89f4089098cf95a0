from pathlib import Path

import pytest

from lookright.errors import RecordError
from lookright.records.known_ids import KnownIds


def of_others(ids: KnownIds, name: str) -> str:
    return ids.claim(name, ids.see(name), "somewhere", may_repeat=True)


def test_ids_of_others_are_told_apart_over_files() -> None:
    ids = KnownIds()
    ids.open(Path("a.json"))
    assert [of_others(ids, name) for name in ("5", "6", "5", "5")] == ["5", "6", "5#2", "5#3"]
    ids.open(Path("b.json"))
    assert [of_others(ids, name) for name in ("5", "7", "6")] == ["5#4", "7", "6#2"]


def test_a_broken_row_counts_so_that_its_repair_changes_no_other() -> None:
    ids = KnownIds()
    ids.see("5")
    assert [of_others(ids, "5"), of_others(ids, "5")] == ["5#2", "5#3"]


def test_an_id_that_looks_like_one_of_ours_stays_apart() -> None:
    ids = KnownIds()
    names = [of_others(ids, name) for name in ("5", "5#2", "5", "5#2")]
    assert len(set(names)) == 4 and names[:2] == ["5", "5#2"]


def test_our_own_ids_name_one_record() -> None:
    ids = KnownIds()
    ids.open(Path("a.jsonl"))
    ids.claim("r1", 1, "a.jsonl:1", may_repeat=False)
    with pytest.raises(RecordError, match="already used at a.jsonl:1") as error:
        ids.claim("r1", 1, "a.jsonl:2", may_repeat=False)
    assert error.value.reason == "duplicate_id"
    ids.open(Path("b.jsonl"))
    with pytest.raises(RecordError, match="is also in a.jsonl"):
        ids.claim("r1", 1, "b.jsonl:1", may_repeat=False)
    assert of_others(ids, "r1") == "r1#2"
