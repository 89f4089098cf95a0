"""Errors that a user can act on: each message names the place, what was found and what to set."""

import signal
from collections.abc import Callable
from functools import partial


class LookRightError(ValueError):
    """Base class of every error that is the user's to fix; printed without a traceback."""


class ConfigError(LookRightError):
    """A configuration that cannot run; the message lists every problem found, one a line."""


class BackboneError(LookRightError):
    """A backbone that breaks its contract (`backbones.base`), found in a pass that would have given wrong numbers."""


class ParameterError(ConfigError):
    """A constructor argument that is refused: `name` and what follows it in the message, `=0 is out of range; ...`.

    The object does not know where in a config it stands; `config.check.Problems` puts the key there.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name + text)
        self.name = name
        self.text = text

    def __reduce__(self) -> tuple[type["ParameterError"], tuple[str, str]]:
        """Pickled with both arguments: worker processes send it back."""
        return type(self), (self.name, self.text)


class RecordError(LookRightError):
    """A record that cannot be used as it is.

    `reason` is a short stable word under which skipped records are counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["RecordError"], tuple[str, str]]:
        """Pickled with both arguments: worker processes send it back."""
        return type(self), (self.reason, str(self))


class WorkerLost(LookRightError):
    """A process that worked for this one was ended from outside, as the system does where memory runs out."""


class Stopped(LookRightError):
    """Work that a signal ended in order; `number` is the signal's. What was done is on disk, and can be gone on with.

    `exit_code` is that of the process: 143, or 130 after Ctrl-C. 0 for a process that another one of the same run
    started, which would take all else for a failure and kill the run.
    """

    def __init__(self, number: int, text: str, *, started_by_run: bool = False) -> None:
        super().__init__(f"{signal.Signals(number).name}: {text}")
        self.number, self.text, self.started_by_run = number, text, started_by_run

    def __reduce__(self) -> tuple[Callable[..., "Stopped"], tuple[int, str]]:
        """Pickled with what it is made of: worker processes send it back."""
        return partial(type(self), started_by_run=self.started_by_run), (self.number, self.text)

    @property
    def exit_code(self) -> int:
        """What a scheduler or a shell is told."""
        if self.started_by_run:
            return 0
        return 130 if self.number == signal.SIGINT else 143
