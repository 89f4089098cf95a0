"""Signals end a command in order."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

from lookright.common.stopping import stoppable, unheard
from lookright.config.entry import launch
from lookright.errors import LookRightError, Stopped, WorkerLost


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_with_its_code_and_a_sentence(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if number == signal.SIGINT:  # a shell that starts tests behind it has them ignore it
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)

    def main() -> None:
        with stoppable(lambda: "go on with: this"):
            try:
                os.kill(os.getpid(), number)
            except Exception:  # what handles errors of a record handles no signal
                pytest.fail("handled as an error")

    with pytest.raises(SystemExit) as ended:
        launch(main, "train")
    assert ended.value.code == code and signal.getsignal(number) == before
    assert capsys.readouterr().err == f"{signal.Signals(number).name}: stopped; go on with: this\n"


def test_an_interrupt_that_a_library_turned_into_an_exit() -> None:
    with pytest.raises(Stopped, match="SIGINT: stopped; on"), stoppable(lambda: "on"):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 as Lightning does
    with pytest.raises(SystemExit), stoppable(lambda: "on"):
        raise SystemExit(3)


def test_faults_of_the_machine_say_how_to_go_on() -> None:
    with pytest.raises(LookRightError) as caught, stoppable(lambda: "go on with: this"):
        raise OSError(errno.ENOSPC, "?", "run/a.jsonl")
    assert str(caught.value) == (
        "cannot use the path run/a.jsonl (No space left on device); free some space there, or set another output; "
        "go on with: this"
    )
    with pytest.raises(WorkerLost, match="^killed; go on with: this$"), stoppable(lambda: "go on with: this"):
        raise WorkerLost("killed")
    with pytest.raises(FileNotFoundError), stoppable(lambda: "go on with: this"):
        raise FileNotFoundError(errno.ENOENT, "?", "a")


def test_before_a_command_listens_a_signal_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(lambda: os.kill(os.getpid(), signal.SIGTERM), "train")
    assert ended.value.code == 143
    assert capsys.readouterr().err == "SIGTERM: stopped; start it again with the same command\n"


def test_what_is_started_inside_never_hears_a_signal() -> None:
    line = [sys.executable, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"]
    with unheard(signal.SIGINT):
        inside = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "SIGINT" in inside and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_process_that_the_run_started_ends_silently(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Stopped(signal.SIGTERM, "stopped", started_by_run=True)

    with pytest.raises(SystemExit) as ended:
        launch(main, "train")
    assert ended.value.code == 0 and capsys.readouterr().err == ""
    copied = pickle.loads(pickle.dumps(Stopped(signal.SIGINT, "stopped")))
    assert (copied.exit_code, str(copied)) == (130, "SIGINT: stopped")


def test_outside_of_the_main_thread_handlers_stay() -> None:
    def work() -> None:
        with stoppable(lambda: "on"):
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
