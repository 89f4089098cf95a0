"""A backbone's folder is checked before anything is read from it."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from lookright.errors import ConfigError


def check_folder(path: str | None) -> str:
    """Return `path`. Raises ConfigError where `path` is missing, or looks local and is no folder with a config.json."""
    if path is None:
        raise ConfigError("backbone.path is not set; set backbone.path to a local folder or a hub name")
    folder = Path(path)
    looks_local = folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1 or folder.exists()
    if looks_local and not (folder / "config.json").is_file():
        raise ConfigError(
            f"backbone.path={path} holds no config.json; set backbone.path to a model folder or a hub name"
        )
    return path


def local_folder(path: str, patterns: Sequence[str], advice: str, what: str = "backbone.path") -> Path:
    """`path` where it is a folder, else the hub's files that match; ConfigError with `advice` where there are none."""
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{what}={path} is no local folder and the hub does not give it ({error}); {advice}"
        ) from error
