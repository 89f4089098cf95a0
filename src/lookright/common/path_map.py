"""Image paths that were written on another machine, moved to where the pictures lie here."""

import re
from collections.abc import Mapping
from pathlib import Path

from lookright.errors import ConfigError, RecordError

Parts = tuple[str, ...]


class PathMap:
    """Prefixes of image paths and what stands in their place.

    A prefix holds for whole components, the longest one wins. What stands in its place is relative to the folder
    that image paths start from, or an absolute folder. `key` names the setting in messages. Raises ConfigError.
    """

    def __init__(self, entries: Mapping[str, str] | None = None, key: str = "data.path_map") -> None:
        self.key = key
        self._entries: dict[Parts, str] = {}
        self._written: dict[Parts, str] = {}
        self._used: set[Parts] = set()
        for prefix, folder in (entries or {}).items():
            self._add(str(prefix), folder)
        self._longest = max(map(len, self._entries), default=0)

    @property
    def folders(self) -> list[Path]:
        """The absolute folders that entries name: pictures may lie there, outside of the root."""
        return [Path(folder) for folder in self._entries.values() if Path(folder).is_absolute()]

    def __call__(self, name: str) -> str:
        """The path to read. Raises RecordError (reason `path`) for an absolute one that no entry covers."""
        parts = _parts(name)
        for length in range(min(len(parts), self._longest), 0, -1):
            prefix = parts[:length]
            if prefix in self._entries:
                self._used.add(prefix)
                return "/".join([self._entries[prefix].rstrip("/"), *parts[length:]]).removeprefix("./")
        if _is_absolute(parts):
            folder = "/".join(parts[:-1]).replace("//", "/", 1) or "/"
            raise RecordError(
                "path",
                f"the image path {name!r} leaves the folder that paths start from, and no entry of {self.key} covers "
                f"it; set {self.key}={{{folder}: FOLDER}} to where its pictures lie",
            )
        return name

    def check_used(self) -> None:
        """Raise ConfigError for an entry that matched no path: misspelt, it would stay without effect."""
        unused = [written for prefix, written in self._written.items() if prefix not in self._used]
        if unused:
            raise ConfigError(
                f"{self.key}: no image path begins with {', '.join(map(repr, unused))}; remove the entry, or correct it"
            )

    def _add(self, prefix: str, folder: str) -> None:
        parts = _parts(prefix)
        if not parts or ".." in parts:
            raise ConfigError(f"{self.key}: {prefix!r} is no prefix of a path; write it as the records do")
        if parts in self._entries:
            raise ConfigError(f"{self.key}: {prefix!r} and {self._written[parts]!r} are the same prefix; remove one")
        if not isinstance(folder, str) or not folder or ".." in folder.split("/"):
            raise ConfigError(f"{self.key}[{prefix}]={folder!r}: set a folder without '..', absolute or relative")
        if Path(folder).is_absolute() and not Path(folder).is_dir():
            raise ConfigError(f"{self.key}[{prefix}]={folder}: no such folder")
        self._entries[parts], self._written[parts] = folder, prefix


def _parts(name: str) -> Parts:
    """Components of a path, an absolute one's first is `/` or a drive; on Windows paths too."""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        name = name.replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return ("/", *parts) if name.startswith("/") else parts


def _is_absolute(parts: Parts) -> bool:
    return bool(parts) and (parts[0] == "/" or re.fullmatch(r"[A-Za-z]:", parts[0]) is not None)
