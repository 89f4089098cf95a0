"""Files that are there whole or not at all, and what a disk refuses, in a sentence."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lookright.common.files import REMEDIES, fault, naming, whole_file, whole_files, write_whole
from lookright.common.jsonl import AppendOnly
from lookright.errors import RecordError

SOURCE = Path(__file__).parents[2] / "src"


def test_a_file_is_replaced_whole_and_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, "old, é\n")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old, é\n" and temporary.suffix == ".html"
    write_whole(path, "new\n")
    assert path.read_text() == "new\n" and [one.name for one in path.parent.iterdir()] == ["page.html"]


def contents(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}


def write_folder(folder: Path, text: str, *names: str) -> None:
    with whole_files(folder) as made:
        (made / "deep").mkdir()
        for name in names:
            (made / name).write_text(text)


def test_a_folder_is_replaced_whole_and_stays_where_writing_fails(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for text, names in (("one", ("index.json", "deep/a.txt", "shard-2.safetensors")), ("two", ("index.json",))):
        write_folder(folder, text, *names)
        # a shard of the one before would be none of this one
        assert contents(folder) == dict.fromkeys(names, text)
    with pytest.raises(RuntimeError), whole_files(folder) as made:
        (made / "index.json").write_text("half")
        raise RuntimeError
    assert contents(folder) == {"index.json": "two"} and list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, replace = tmp_path / "model", Path.replace
    write_folder(folder, "old", "a.json")

    def refusing(self: Path, target: Path) -> Path:
        if self.name == ".model.partial" and target == folder:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "replace", refusing)
        write_folder(folder, "new", "a.json")
    assert contents(folder) == {"a.json": "old"} and list(tmp_path.iterdir()) == [folder]


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tmp_path / "disk" / "model")
    for text in ("old", "new"):
        write_folder(tmp_path / "run" / "model", text, "a.json")
    assert (tmp_path / "run" / "model").is_symlink() and contents(tmp_path / "disk" / "model") == {"a.json": "new"}
    assert [one.name for one in (tmp_path / "disk").iterdir()] == ["model"]


KILLED = """
import os, signal, sys
from pathlib import Path

from lookright.common.files import whole_files

folder, number = Path(sys.argv[1]), int(sys.argv[2])
replace, moves = Path.replace, []


def deadly(self, target):
    moves.append(target)
    if len(moves) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)


Path.replace = deadly
with whole_files(folder) as made:
    (made / "config.json").write_text("new")
    (made / "weights.safetensors").write_text("new")
print(len(moves))
"""


def killed_before_move(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Replace a folder in a process that is killed ahead of one of its renames."""
    command = [sys.executable, "-c", KILLED, str(folder), str(number)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SOURCE)}, text=True, capture_output=True)


@pytest.mark.parametrize(("number", "seen"), [(1, "old"), (2, None), (3, "new")])
@pytest.mark.parametrize("fails", [True, False])
def test_a_kill_between_two_renames_leaves_no_mixed_folder(
    number: int, seen: str | None, fails: bool, tmp_path: Path
) -> None:
    """The old folder, none, or the new one; what comes next finds the old one again, and clears up."""
    folder, names = tmp_path / "adapter", ("config.json", "weights.safetensors")
    write_folder(folder, "old", *names)
    assert killed_before_move(folder, number).returncode == -signal.SIGKILL
    assert contents(folder) == ({} if seen is None else dict.fromkeys(names, seen))
    if fails:
        with pytest.raises(RuntimeError), whole_files(folder):
            raise RuntimeError
        assert contents(folder) == dict.fromkeys(names, seen or "old")
    else:
        write_folder(folder, "newer", *names)
        assert contents(folder) == dict.fromkeys(names, "newer")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_kills_above_are_all_that_can_be(tmp_path: Path) -> None:
    write_folder(tmp_path / "adapter", "old", "config.json")
    assert killed_before_move(tmp_path / "adapter", 99).stdout == "3\n"


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
