"""A backbone's folder is checked before anything is read from it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from lookright.backbones.tensor_files import check_file
from lookright.common.strict_json import read_object
from lookright.errors import ConfigError, LookRightError


def check_folder(path: str | None) -> str:
    """Return `path`. Raises ConfigError where `path` is missing, or looks local and is no folder with a config.json."""
    if path is None:
        raise ConfigError("backbone.path is not set; set backbone.path to a local folder or a hub name")
    if looks_local(path) and not (Path(path) / "config.json").is_file():
        what = "holds no config.json" if Path(path).is_dir() else "is no folder here, and its name none of a hub"
        if not Path(path).is_dir() and path.count("/") == 1 and Path(path).parent.is_dir():
            what = f"is not there, and is no name on a hub since the folder {Path(path).parent} lies here"
        raise ConfigError(f"backbone.path={path} {what}; set backbone.path to a model folder or a hub name")
    return path


def check_json(file: Path) -> dict[str, Any]:
    """The object in a file of settings. Raises ConfigError for a damaged one, and for the pointer of Git LFS."""
    check_file(file)
    return read_object(file, "fetch it again")


@contextmanager
def readable(path: str | Path, what: str = "one of its files of settings") -> Iterator[None]:
    """Turn whatever a library raises inside over `what` of `path` into a ConfigError that names it.

    Their readers of config.json and of tokenizers check few values: a wrong one fails wherever it is used first.
    """
    try:
        yield
    except LookRightError:
        raise
    except BaseException as error:
        # a panic of a library in Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines() or [""]
        raise ConfigError(
            f"{path}: {what} is damaged, or not of this family ({type(error).__name__}: {lines[0][:300]}); fetch it "
            "again, or set backbone.path to another folder"
        ) from error


def looks_local(path: str) -> bool:
    """Whether a path is none that a hub has, as OWNER/NAME where no folder OWNER lies here: a hub is asked for long."""
    folder = Path(path)
    return path.startswith((".", "~")) or path.count("/") != 1 or folder.exists() or folder.parent.is_dir()


def local_folder(path: str, patterns: Sequence[str], advice: str, what: str = "backbone.path") -> Path:
    """`path` where it is a folder, else the hub's files that match; ConfigError with `advice` where there are none."""
    if Path(path).is_dir():
        return Path(path)
    if looks_local(path):
        raise ConfigError(f"{what}={path} is no local folder; {advice}")
    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{what}={path} is no local folder and the hub does not give it ({error}); {advice}"
        ) from error
