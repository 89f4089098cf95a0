"""What a run was made of beside its config: files of data and weights, told by hashes that another run can check.

| found under a key of INPUT_GROUPS | hash of |
|---|---|
| a file | every byte |
| a parquet or arrow file over 16 MiB | its size and 64 pieces of 256 KiB: it may hold the pictures themselves |
| a folder of such files, as `datasets` writes it | these, with their names |
| a folder with weights, of a backbone or an adapter | every byte of its files, with their names, without .md |
| the name of a model on a hub | the commit that is in the cache |
| another folder, as `data.image_root` | nothing; pictures have an entry of their own (`records.used`) |
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.common.hashing import hash_file, hash_text

ANSWERED_BY = "answered_by"
"""In the provenance of a pair: `model_name` of what gave its rejected answers."""
INPUT_GROUPS = ("backbone", "adapter", "tuning", "source", "data", "eval")
PICTURES = "pictures"
_TABLES = (".parquet", ".arrow")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_ON_HUB = "the commit on the hub"
_COMMIT = "commit-"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(slots=True, frozen=True, kw_only=True)
class Input:
    """One thing that a run read: where it lay, as the config says it, how many bytes, and what `hash` is of."""

    path: str
    hash: str
    size: int
    covers: str


def pictures_of(*groups: str) -> str:
    """The key of the pictures that a run takes, beside the `path` of their records in a config group."""
    return ".".join((*groups, PICTURES))


def inputs_of(config: DictConfig) -> dict[str, Input]:
    """Return what the config names of files, by dotted key; a path that is not there is left out."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    texts = [pair for name in INPUT_GROUPS for pair in _texts(plain.get(name), name)]
    found = {key: _identified(text, is_model=key.startswith("backbone.")) for key, text in texts}
    return {key: one for key, one in found.items() if one is not None}


def model_name(inputs: Mapping[str, Input]) -> str | None:
    """Return how pairs name the model that a config's `inputs` describe: `NAME@HASH`, `+ NAME@HASH` of an adapter.

    None where its weights have no hash: they lie in no folder, and in no cache.
    """
    parts = [_named(inputs[key]) for key in ("backbone.path", "adapter") if key in inputs]
    return " + ".join(parts) if "backbone.path" in inputs else None


def other_model(answered_by: str, own: str | None) -> bool:
    """Whether two names of `model_name` are known to be of different base models; a hub's is held against a hub's."""
    one, other = ((name or "").partition(" + ")[0].rpartition("@")[2] for name in (answered_by, own))
    return bool(one and other) and one.startswith(_COMMIT) == other.startswith(_COMMIT) and one != other


def _named(one: Input) -> str:
    on_hub = one.covers == _ON_HUB
    return f"{one.path if on_hub else Path(one.path).name}@{_COMMIT if on_hub else ''}{one.hash[:12]}"


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a config below a key, with its own key."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            if not str(name).startswith("_"):
                yield from _texts(child, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, child in enumerate(value):
            yield from _texts(child, f"{key}.{number}")
    elif isinstance(value, str) and value:
        yield key, value


def _identified(text: str, *, is_model: bool) -> Input | None:
    path = Path(text)
    try:
        if path.is_file():
            return _file(path, text)
        if path.is_dir():
            return _folder(path, text)
    except OSError:
        # too long for a path, or of somebody else
        return None
    return _on_hub(text) if is_model and _HUB_NAME.fullmatch(text) else None


def _file(path: Path, text: str) -> Input:
    whole = path.suffix not in _TABLES
    covers = "every byte" if whole else "size, and every byte or 64 pieces"
    return Input(path=text, hash=hash_file(path, whole=whole), size=path.stat().st_size, covers=covers)


def _folder(folder: Path, text: str) -> Input | None:
    files = sorted(one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    if any(one.suffix in _WEIGHTS for one in files):
        files = [one for one in files if one.suffix != ".md"]
        covers = f"every byte of {len(files)} files"
    elif any(one.suffix in _TABLES for one in files):
        covers = f"names and sizes of {len(files)} files, and every byte or 64 pieces of each"
    else:
        return None
    # hashing lets go of the interpreter: shards of weights are read side by side
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda one: hash_file(one, whole=one.suffix not in _TABLES), files))
    lines = [f"{one.name} {digest}" for one, digest in zip(files, hashes, strict=True)]
    return Input(
        path=text, hash=hash_text("\n".join(lines)), size=sum(one.stat().st_size for one in files), covers=covers
    )


def _on_hub(name: str) -> Input | None:
    # reads the cache alone
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        return None
    return Input(path=name, hash=Path(found).parent.name, size=0, covers=_ON_HUB)
