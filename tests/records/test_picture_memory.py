"""Good pictures are remembered over runs; whatever happens to the memory, nothing but time is lost."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from lookright.common import pictures as rules
from lookright.errors import LookRightError, RecordError
from lookright.records.picture_memory import PictureMemory, cache_folder, content_key, file_key
from lookright.records.pictures import PictureFolder
from lookright.records.readers import load_preferences, load_prompts
from lookright.records.records import write_jsonl
from lookright.types import Preference, Prompt, Region


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files, or `bytes`, that PIL was asked to open."""
    seen: list[str] = []
    real = Image.open

    def watched(source: object, *rest: object, **options: object) -> Image.Image:
        seen.append(source.name if isinstance(source, Path) else "bytes")
        return real(source, *rest, **options)

    monkeypatch.setattr(rules.Image, "open", watched)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures, one lies on its side, in ten records."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 8
    for number in range(20):
        image = Image.effect_noise((30 + number, 20), 60).convert("RGB")
        image.save(tmp_path / f"{number}.jpg", exif=turned if number == 7 else Image.Exif())
    write_jsonl(
        tmp_path / "preferences.jsonl",
        [
            Preference(
                id=f"r{number}",
                images=[f"{number}.jpg", f"{number + 10}.jpg"],
                prompt="<image><image>what?",
                chosen="a",
                rejected=["b"],
            )
            for number in range(10)
        ],
    )
    return tmp_path


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    loaded = load_preferences(folder / "preferences.jsonl")
    return {name: loaded.pictures.size(name) for record in loaded.records for name in record.images}


def test_a_second_start_opens_no_picture(folder: Path, opened: list[str]) -> None:
    first = sizes(folder)
    assert sorted(set(opened)) == sorted(f"{number}.jpg" for number in range(20))
    assert first["7.jpg"] == (20, 37) and first["8.jpg"] == (38, 20)
    opened.clear()
    assert sizes(folder) == first and opened == []


def test_prompts_profit_from_what_preferences_left(folder: Path, opened: list[str]) -> None:
    sizes(folder)
    opened.clear()
    region = Region(picture=0, box=(0, 0, 20, 37), source="s")
    prompt = Prompt(
        id="p",
        images=["7.jpg"],
        prompt="<image>what?",
        ground_truth="a",
        format="single_image",
        target=0,
        regions=[region],
    )
    write_jsonl(folder / "instructions.jsonl", [prompt])
    assert len(load_prompts(folder / "instructions.jsonl").records) == 1 and opened == []


def test_a_changed_file_is_looked_at_again(folder: Path, opened: list[str]) -> None:
    sizes(folder)
    opened.clear()
    Image.new("RGB", (99, 20)).save(folder / "3.jpg")
    assert sizes(folder)["3.jpg"] == (99, 20) and set(opened) == {"3.jpg"}


def test_a_broken_file_is_never_remembered(folder: Path, opened: list[str]) -> None:
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:300])
    for _ in range(2):
        opened.clear()
        with pytest.raises(LookRightError, match="id r3.*broken picture 3.jpg of 300 bytes"):
            load_preferences(folder / "preferences.jsonl")
        assert "3.jpg" in opened
    assert set(opened) == {"3.jpg"}


def test_another_limit_holds_for_what_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes(folder)
    monkeypatch.setattr(rules, "MAX_PIXELS", 48 * 20)
    with pytest.raises(LookRightError, match=r"(?s)1 of 10 records .*49 x 20 are 980 pixels.*\[picture_size\]"):
        load_preferences(folder / "preferences.jsonl")


def test_links_share_what_is_known_of_their_file(folder: Path, opened: list[str]) -> None:
    os.symlink(folder / "1.jpg", folder / "link.jpg")
    assert file_key(folder / "link.jpg") == file_key(folder / "1.jpg") != file_key(folder / "2.jpg")
    PictureFolder(folder).size("1.jpg")
    opened.clear()
    assert PictureFolder(folder).size("link.jpg") == (31, 20) and opened == []


def only_file(cache: Path) -> Path:
    (found,) = (path for path in cache.rglob("*") if path.is_file())
    return found


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn last line": lambda data: data[:-15],
    "torn before the line feed": lambda data: data[:-1],
    "torn in a number": lambda data: data[: data.rindex(b" ") - 1],
    "noise": lambda data: bytes(range(256)) * 20,
    "noise before": lambda data: os.urandom(99) + data,
    "not text": lambda data: b"\xff\xfe\0" + data[3:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_memory_costs_time_alone(folder: Path, cache: Path, opened: list[str], damage: str) -> None:
    first = sizes(folder)
    only_file(cache).write_bytes(DAMAGES[damage](only_file(cache).read_bytes()))
    assert sizes(folder) == first
    opened.clear()
    assert sizes(folder) == first and opened == [], "what was lost was written again"


def test_a_wrong_digit_is_found_out(folder: Path, cache: Path) -> None:
    """A size read wrong would move every region of the picture."""
    sizes(folder)
    only_file(cache).write_bytes(only_file(cache).read_bytes().replace(b" 38 20 ", b" 83 20 "))
    assert sizes(folder)["8.jpg"] == (38, 20)


def test_a_memory_that_cannot_be_written_or_read_is_no_error(folder: Path, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert len(sizes(folder)) == 20
    cache.unlink()
    sizes(folder)
    path = only_file(cache)
    path.unlink()
    path.mkdir()
    assert len(sizes(folder)) == 20


def test_where_the_memory_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("LOOKRIGHT_CACHE", "")
    assert cache_folder() is None
    memory = PictureMemory(tmp_path)
    memory.put(content_key(b"x"), (1, 2))
    assert memory.get(content_key(b"x")) is None and not list(tmp_path.iterdir())
    monkeypatch.delenv("LOOKRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lookright"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lookright"


WRITER = """
import sys
from lookright.records.picture_memory import PictureMemory, content_key
from pathlib import Path
memory = PictureMemory(Path(sys.argv[1]))
for number in range(400):
    memory.put(content_key(f"{sys.argv[2]}/{number}".encode()), (number + 1, int(sys.argv[2]) + 1))
"""


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(name)]) for name in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    memory = PictureMemory(tmp_path)
    for name in range(4):
        for number in range(400):
            assert memory.get(content_key(f"{name}/{number}".encode())) == (number + 1, name + 1)


def test_it_goes_to_worker_processes(folder: Path) -> None:
    pictures = PictureFolder(folder)
    pictures.size("1.jpg")
    assert pickle.loads(pickle.dumps(pictures)).size("1.jpg") == (31, 20)


def test_a_picture_that_changes_after_its_check_is_named(folder: Path) -> None:
    pictures = PictureFolder(folder)
    pictures.size("1.jpg")
    Image.new("RGB", (60, 20)).save(folder / "1.jpg")
    with pytest.raises(RecordError, match="picture 1.jpg has 60 x 20 pixels, it had 31 x 20 when it was checked"):
        pictures.open("1.jpg")


def test_embedded_pictures_are_known_by_their_content(folder: Path, opened: list[str]) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "images": [(folder / f"{number}.jpg").read_bytes()],
            "prompt": "<image>what?",
            "chosen": "a",
            "rejected": f"b{number}",
        }
        for number in range(20)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "p.parquet", row_group_size=3)
    loaded = load_preferences(folder / "p.parquet")
    assert opened == ["bytes"] * 20 and loaded.pictures.size("#7/0") == (20, 37)
    opened.clear()
    parquet.write_table(pa.Table.from_pylist(rows[::-1]), folder / "p.parquet", row_group_size=3)
    assert load_preferences(folder / "p.parquet").pictures.size("#12/0") == (20, 37) and opened == []
    rows[5]["images"] = [rows[5]["images"][0][:300]]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "p.parquet", row_group_size=3)
    with pytest.raises(LookRightError, match="1 of 20 records.*\n.*row 5.*broken picture #5/0 of 300 bytes"):
        load_preferences(folder / "p.parquet")


def test_threads_share_one_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are checked by several threads; a file that two of them opened would stay open for good."""
    memory, together, real, opened = PictureMemory(tmp_path), threading.Barrier(4), os.open, []

    def slowly(*given: Any) -> int:
        time.sleep(0.05)
        opened.append(real(*given))
        return opened[-1]

    def put(number: int) -> None:
        together.wait()
        memory.put(content_key(b"%d" % number), (number, 1))

    monkeypatch.setattr(os, "open", slowly)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, range(4)))
    assert len(opened) == 1
    again = PictureMemory(tmp_path)
    assert [again.get(content_key(b"%d" % number)) for number in range(4)] == [(number, 1) for number in range(4)]
