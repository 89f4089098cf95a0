"""The store keeps what was written, gives nothing that was not, and says what its numbers belong to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lookright.errors import ConfigError, LookRightError
from lookright.reference.store import RECORD_BYTES, SUFFIX, LogpStore

HEADER_BYTES = 28
COMPONENTS = {"model weights": "aa", "adapter": "none"}
VALUES = {f"{number:032x}": -1.0 / 3.0 - number for number in range(5)}


def open_store(folder: Path, mark: bytes = b"f" * 16, **components: str) -> LogpStore:
    return LogpStore(folder, mark, COMPONENTS | components, {"torch": "1"})


def filled(folder: Path) -> Path:
    """A folder with `VALUES` in one shard; returns the shard."""
    store = open_store(folder)
    store.add(list(VALUES), list(VALUES.values()))
    store.close()
    (shard,) = folder.glob(f"*{SUFFIX}")
    return shard


def contents(store: LogpStore) -> dict[str, float]:
    return {key: store[key] for key in VALUES if key in store}


def test_values_come_back_to_the_last_bit_and_cost_28_bytes_each(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    assert contents(open_store(tmp_path)) == VALUES
    assert shard.stat().st_size == HEADER_BYTES + RECORD_BYTES * len(VALUES) == 28 * (1 + len(VALUES))


def test_a_store_that_adds_nothing_writes_no_shard(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    before = shard.read_bytes()
    store = open_store(tmp_path)
    store.add(list(VALUES), [0.0] * len(VALUES))
    store.close()
    assert contents(store) == VALUES, "a value that is there stays"
    assert list(tmp_path.glob(f"*{SUFFIX}")) == [shard] and shard.read_bytes() == before


@pytest.mark.parametrize("lost", range(1, RECORD_BYTES + 1))
def test_a_kill_at_any_byte_of_the_last_record_loses_that_record_alone(tmp_path: Path, lost: int) -> None:
    shard = filled(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-lost])
    store = open_store(tmp_path)
    last = list(VALUES)[-1]
    assert contents(store) == {key: value for key, value in VALUES.items() if key != last}
    store.add([last], [VALUES[last]])
    assert contents(open_store(tmp_path)) == VALUES


@pytest.mark.parametrize("place", range(RECORD_BYTES))
def test_a_damaged_byte_takes_its_record_out_and_no_other(tmp_path: Path, place: int) -> None:
    shard = filled(tmp_path)
    data = bytearray(shard.read_bytes())
    data[HEADER_BYTES + 2 * RECORD_BYTES + place] ^= 0x10
    shard.write_bytes(data)
    store = open_store(tmp_path)
    damaged = list(VALUES)[2]
    assert contents(store) == {key: value for key, value in VALUES.items() if key != damaged}
    assert len(store) == len(VALUES) - 1 and store.num_damaged == 1


@pytest.mark.parametrize("length", range(HEADER_BYTES + 1))
def test_a_torn_header_gives_nothing(tmp_path: Path, length: int) -> None:
    shard = filled(tmp_path)
    shard.write_bytes(shard.read_bytes()[:length])
    assert len(open_store(tmp_path)) == 0


@pytest.mark.parametrize("place", [*range(8), *range(24, HEADER_BYTES)])
def test_a_damaged_header_gives_nothing_and_counts_all_as_damaged(tmp_path: Path, place: int) -> None:
    shard = filled(tmp_path)
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    store = open_store(tmp_path)
    assert len(store) == 0 and store.num_damaged == len(VALUES)


def test_two_writers_at_once_lose_nothing_and_a_reader_beside_them_sees_no_wrong_value(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from lookright.reference.store import LogpStore
first, folder = int(sys.argv[1]), Path(sys.argv[2])
store = LogpStore(folder, b"f" * 16, {"model weights": "aa", "adapter": "none"}, {"torch": "1"})
for number in range(first, first + 400):
    store.add([f"{number:032x}"], [-number / 7])
store.close()
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(start), str(tmp_path)]) for start in (0, 200)]
    reader = open_store(tmp_path)
    while any(writer.poll() is None for writer in writers):
        reader.reload()
        assert reader.num_damaged == 0
    assert [writer.wait() for writer in writers] == [0, 0]
    reader.reload()
    assert len(reader) == 600, "both wrote, and what both wrote counts once"
    assert all(reader[f"{number:032x}"] == -number / 7 for number in range(600))
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 2


def test_a_folder_of_another_reference_is_refused_with_the_name_of_what_differs(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(LookRightError) as error:
        open_store(tmp_path, b"g" * 16, adapter="0123")
    message = str(error.value)
    assert "adapter: was none, is 0123" in message and "model weights" not in message
    assert str(tmp_path) in message and "set reference.folder" in message


def test_a_component_that_the_folder_does_not_know_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(LookRightError, match="something new: was absent, is 1"):
        open_store(tmp_path, b"g" * 16, **{"something new": "1"})


def test_a_shard_of_another_reference_is_refused_where_the_manifest_was_lost(tmp_path: Path) -> None:
    shard = filled(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(LookRightError, match=shard.name):
        open_store(tmp_path, b"g" * 16)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"components": 1}', json.dumps({"components": {}})])
def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path, text: str) -> None:
    filled(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(LookRightError, match="manifest.json.*delete the folder: it is filled again"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="reference.folder"):
        open_store(tmp_path / "file" / "store")
