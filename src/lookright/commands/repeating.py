"""What `train.py repeat=RUN_DIR` looks at before it begins: whether data, weights and code are those of that run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lookright.config.inputs import PICTURES, Input
from lookright.config.made_by import MADE_BY_FILE, MadeBy, read_made_by
from lookright.errors import ConfigError


class Earlier:
    """The run that `repeat` names; `overrides` are what the command line sets on top of its config."""

    def __init__(self, folder: str, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.record = read_made_by(Path(folder))
        self._given = [item.lstrip("+~").partition("=")[0].replace("/", ".") for item in overrides]

    def check(self, now: Mapping[str, Input]) -> None:
        """Raise ConfigError where an input is not what it was, by its hash; one that the user chose anew may be."""
        changed = {} if self.record is None else self.record.changed_inputs(now, f"repeat={self.folder}")
        lines = [f"{text}, or {_remedy(key)}" for key, text in changed.items() if not self._is_chosen(key)]
        if lines:
            raise ConfigError("\n".join(lines))

    def tell(self, now: MadeBy) -> None:
        """Say what differs in code and packages, a line each, or that nothing is known."""
        if self.record is None or not self.record.versions:
            rank_zero_info(
                f"repeat={self.folder}: its {MADE_BY_FILE} says nothing of data, weights and versions, so they are not "
                "compared: it was made by an earlier version"
            )
            return
        for text in now.code_differences(self.record):
            rank_zero_info(f"repeat={self.folder}: {text}")

    def _is_chosen(self, key: str) -> bool:
        """Whether the command line sets the key of an input; pictures follow from every key of their data."""
        parent, _, name = key.rpartition(".")
        if name == PICTURES and any(given.startswith(f"{parent}.") for given in self._given):
            return True
        return any(key == given or key.startswith(f"{given}.") for given in self._given)


def _remedy(key: str) -> str:
    """What to set to go on with what is there now."""
    parent, _, name = key.rpartition(".")
    setting = f"{parent}.path" if name == PICTURES else parent if name.isdecimal() else key
    return f"set {setting}=... on the command line to take what is there now"
