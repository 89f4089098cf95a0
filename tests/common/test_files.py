"""Files that are there whole or not at all, and what a disk refuses, in a sentence."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lookright.common.files import REMEDIES, fault, naming, whole_file, whole_files, write_whole
from lookright.common.jsonl import AppendOnly
from lookright.errors import RecordError


def test_a_file_is_replaced_whole_and_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, "old, é\n")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old, é\n" and temporary.suffix == ".html"
    write_whole(path, "new\n")
    assert path.read_text() == "new\n" and [one.name for one in path.parent.iterdir()] == ["page.html"]


def test_a_folder_takes_new_files_and_what_names_them_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved, replace = tmp_path / "model", [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: moved.append(Path(target).name) or replace(self, target))
    for text in ("one", "two"):
        with whole_files(folder) as made:
            (made / "deep").mkdir()
            for name in ("index.json", "deep/a.txt", "model.safetensors"):
                (made / name).write_text(text)
    assert moved == ["model", "a.txt", "model.safetensors", "index.json"]
    assert {one.read_text() for one in folder.rglob("*.*")} == {"two"} and len(list(folder.rglob("*.*"))) == 3
    with pytest.raises(RuntimeError), whole_files(folder) as made:
        (made / "index.json").write_text("half")
        raise RuntimeError
    assert (folder / "index.json").read_text() == "two" and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("number", REMEDIES)
def test_a_fault_names_path_reason_and_remedy(number: int) -> None:
    told = fault(OSError(number, "?", "/data/run/file"))
    assert told == f"cannot use the path /data/run/file ({os.strerror(number)}); {REMEDIES[number]}"
    assert fault(OSError(number, "?")) == f"cannot use a file ({os.strerror(number)}); {REMEDIES[number]}"


def test_other_errors_are_no_faults_of_the_machine() -> None:
    assert fault(FileNotFoundError(errno.ENOENT, "?", "x")) is None
    assert fault(ValueError("No space left on device")) is None
    chained = ValueError("in a worker")
    chained.__cause__ = OSError(errno.EROFS, "?", "x")
    assert fault(chained) == f"cannot use the path x (Read-only file system); {REMEDIES[errno.EROFS]}"


class _Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def flush(self) -> None:
        pass


def test_what_a_library_hides_comes_out_with_the_name() -> None:
    with pytest.raises(OSError, match="No space left") as caught, naming(Path("a.ckpt")):
        torch.save({"weights": torch.zeros(1000)}, _Full(2000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a.ckpt")
    with pytest.raises(OSError, match="Read-only") as caught, naming(Path("a.safetensors")):
        raise SafetensorError("Error while serializing: I/O error: Read-only file system (os error 30)")
    assert caught.value.filename == "a.safetensors"
    with pytest.raises(OSError, match="b") as caught, naming(Path("a")):
        open("/nowhere/b")  # noqa: SIM115
    assert caught.value.filename == "/nowhere/b"


def test_errors_of_ours_and_others_stay_what_they_are() -> None:
    with pytest.raises(RecordError, match="torn"), naming(Path("a")):
        try:
            raise OSError(errno.EIO, "?")
        except OSError:
            raise RecordError("picture", "torn (os error 5)") from None
    with pytest.raises(RuntimeError, match="size mismatch"), naming(Path("a")):
        raise RuntimeError("size mismatch")


def test_a_line_that_does_not_fit_names_its_file_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AppendOnly(path) as written:
        written.add({"id": "a"})
    with pytest.raises(OSError, match="No space left") as caught, AppendOnly(path) as written:
        written._file.close()
        written._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
        written.add({"id": "b"})
    assert caught.value.filename == str(path)
    with AppendOnly(path) as written:
        assert written.done == {"a"}
