"""Errors that a user can act on: each message names the place, what was found and what to set."""


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
