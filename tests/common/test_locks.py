"""One process writes to a folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lookright.common.locks import LOCK_FILE, locked
from lookright.composing.workspace import Workspace, only_writer
from lookright.errors import ConfigError

HOLDER = "import sys, time; from pathlib import Path; from lookright.common.locks import locked\n"
HOLDER += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"


def test_the_second_is_refused_by_name_and_the_next_is_not(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with pytest.raises(ConfigError) as error, locked(tmp_path / "run"):
            pass
        told = f"output={tmp_path / 'run'} is being written by process {os.getpid()} on "
        assert str(error.value).startswith(told) and " since 20" in str(error.value)
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "written").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["written"]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} on "), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).is_file()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker of a loader lives on for seconds when its parent was killed, and with it what it holds open."""
    with locked(tmp_path):
        held = (tmp_path / LOCK_FILE).stat()
        pid = os.fork()
        if pid == 0:
            os._exit(sum(os.path.samestat(held, os.stat(f"/proc/self/fd/{name}")) for name in _open_files()))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert any(os.path.samestat(held, os.stat(f"/proc/self/fd/{name}")) for name in _open_files())


def _open_files() -> list[str]:
    """Descriptors of this process that are still there when asked."""
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]


def test_a_file_removed_while_one_waits_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock the holder ends and removes the file: the lock is on nothing, and another is opened."""
    flock, calls = fcntl.flock, []

    def removed_before(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with locked(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK_FILE).is_file()


def test_without_locks_a_warning_and_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no file locks"), locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_shards_share_a_folder_and_joining_wants_all_of_it(tmp_path: Path) -> None:
    first, second = (Workspace(folder=tmp_path, shard=shard, num_shards=2) for shard in (0, 1))
    refused = pytest.raises(ConfigError, match="is being written by")
    with only_writer(first, joins=False), only_writer(second, joins=False), refused, only_writer(second, joins=False):
        pass
    with only_writer(second, joins=False), pytest.raises(ConfigError), only_writer(first, joins=True):
        pass
    with only_writer(first, joins=True):
        pass
    assert list(tmp_path.iterdir()) == []
