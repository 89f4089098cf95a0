"""Signals that end a command in order, with a word about how to go on; processes that end with the one above them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from lookright.errors import Stopped

ASKED_TO_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a scheduler sends to end a job; SLURM sends USR1 or USR2 ahead of a time limit."""

STARTED_BY = "LOOKRIGHT_STARTED_BY"
"""Names in a rank's environment the process that started it as a part of the same run."""
WATCH_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, for the signal `number`; no handler of errors takes it for one of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable(go_on: Callable[[], str]) -> Iterator[None]:
    """Inside, a signal to stop interrupts as Ctrl-C does; whichever comes ends in Stopped, which says how to `go_on`.

    Handlers are put back at the end. Outside of the main thread signals are left to that. Raises Stopped.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _interrupt) for number in ASKED_TO_STOP} if in_main else {}
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns an interrupt into an exit
        cause = error.__context__ if isinstance(error, SystemExit) else error
        if not isinstance(cause, KeyboardInterrupt):
            raise
        raise Stopped(getattr(cause, "number", signal.SIGINT), f"stopped; {go_on()}") from cause
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        threading.Thread(target=_watch, args=[int(parent)], daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    # the main thread may be in a collective, where no exception reaches it
    os._exit(1)
