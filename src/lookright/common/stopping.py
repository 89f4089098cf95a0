"""Signals and faults of a machine end a command in order, with a word about how to go on; children end with it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from lookright.common.files import fault
from lookright.errors import LookRightError, Stopped, WorkerLost

ASKED_TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a scheduler sends to end a job; SLURM sends USR1 or USR2 ahead of a time limit."""

STARTED_BY = "LOOKRIGHT_STARTED_BY"
"""Names in a rank's environment the process that started it as a part of the same run."""
ENDS_WITH = "LOOKRIGHT_ENDS_WITH"
"""Names in a command's environment the process that it is a part of the work of, and ends with as on SIGTERM."""
WATCH_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, for the signal `number`; no handler of errors takes it for one of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interrupting() -> Iterator[None]:
    """Inside, a signal to stop interrupts as Ctrl-C does. Handlers are put back at the end.

    Outside of the main thread signals are left to that.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _interrupt) for number in ASKED_TO_STOP} if in_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(error: KeyboardInterrupt, text: str) -> Stopped:
    """What an interrupt ends in."""
    return Stopped(getattr(error, "number", signal.SIGINT), f"stopped; {text}")


@contextmanager
def stoppable(go_on: Callable[[], str]) -> Iterator[None]:
    """Inside, a signal to stop interrupts as Ctrl-C does; whichever comes ends in Stopped, which says how to `go_on`.

    So does what says that a disk refuses or that a worker was killed. Raises Stopped, LookRightError and WorkerLost.
    """
    try:
        with interrupting():
            yield
    except WorkerLost as error:
        raise WorkerLost(f"{error}; {go_on()}") from error
    except OSError as error:
        told = fault(error)
        if told is None:
            raise
        raise LookRightError(f"{told}; {go_on()}") from error
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns an interrupt into an exit
        cause = error.__context__ if isinstance(error, SystemExit) else error
        if not isinstance(cause, KeyboardInterrupt):
            raise
        raise stopped(cause, go_on()) from cause


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Interrupted(number)


def starts_ranks() -> None:
    """Say that processes which this one starts from now on are ranks of its run (`end_with_run`)."""
    os.environ[STARTED_BY] = str(os.getpid())


def end_with_run() -> None:
    """In a rank that another process of the run started: end where that one ends, whatever ended it.

    Otherwise it would go on alone, or wait in a collective for half an hour, as nobody looks after it any more.
    """
    parent = os.environ.get(STARTED_BY)
    if parent is not None and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        end_with(int(parent))


def end_with(parent: int) -> None:
    """End this process where `parent`, which started it, ends, whatever ended that; a kill tells no child."""
    threading.Thread(target=_watch, args=[parent], daemon=True).start()


def _watch(parent: int) -> None:
    _wait_for(parent)
    # the main thread may be in a collective, or wait for work, where no exception reaches it
    os._exit(1)


def stop_with_starter() -> None:
    """In a command that another one started and waits for: stop as on SIGTERM where that one ends."""
    starter = os.environ.pop(ENDS_WITH, None)
    if starter is not None:
        threading.Thread(target=_stop_behind, args=[int(starter)], daemon=True).start()


def _stop_behind(starter: int) -> None:
    _wait_for(starter)
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)


@contextmanager
def unheard(*numbers: int) -> Iterator[None]:
    """Processes that are started inside never hear these signals; here they come at the end.

    Ctrl-C goes to all processes of a terminal: workers would end with tracebacks before the one that ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
