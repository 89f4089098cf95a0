"""Keys of a config that other keys refer to, as `weight: ${loss.alpha}` does to `loss.alpha`."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

REFERENCE = re.compile(r"\$\{([\w./]+)\}")
"""An interpolation by absolute path; resolvers, `${name:...}`, are none."""


class ShortName:
    """Annotates the `**arguments` of a target that takes, and does not read, keys which its other arguments refer to.

    A key that nothing refers to is misspelt there, and `config.check` says so.
    """


def references(config: DictConfig) -> set[str]:
    """Return the dotted paths that some value of the config refers to."""
    return {
        found for text in _texts(OmegaConf.to_container(config, resolve=False)) for found in REFERENCE.findall(text)
    }


def lost_references(config: DictConfig) -> list[str]:
    """Return the paths that some value refers to, and that are not there."""
    return sorted(path for path in references(config) if _at(config, origin(config, path)) is None)


def origin(config: DictConfig, path: str) -> str:
    """Return the path that sets what stands at `path`: where a reference on the way leads to, else `path` itself."""
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        node = _at(config, ".".join(parts[:count]))
        if node is None:
            return path
        text = node._value()
        found = REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if found is not None:
            return origin(config, ".".join([found[1], *parts[count:]]))
    return path


def resolved(config: DictConfig) -> DictConfig:
    """Return a copy for a run's folder in which references stay and all else is filled in.

    So each value of the file stands there once, under the key that sets it, and what follows `seed` or `output` follows
    it in a repetition too.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create(_with_references(plain, OmegaConf.to_container(config, resolve=False)))


def _with_references(plain: Any, raw: Any) -> Any:
    if isinstance(raw, dict):
        return {key: _with_references(plain[key], raw[key]) for key in raw}
    if isinstance(raw, list):
        return [_with_references(one, other) for one, other in zip(plain, raw, strict=True)]
    found = REFERENCE.fullmatch(raw) if isinstance(raw, str) else None
    # one that begins with a dot is relative to its place
    return raw if found is not None and not found[1].startswith(".") else plain


def _at(config: DictConfig, path: str) -> Any:
    """The node at a path as it stands, interpolations unresolved; None where there is none."""
    node: Any = config
    for part in path.split("."):
        # a container that is itself an interpolation, null or ??? holds a string or nothing
        if isinstance(node, DictConfig) and isinstance(node._content, dict) and part in node._content:
            node = node._content[part]
            continue
        inner = node._content if isinstance(node, ListConfig) else None
        if not isinstance(inner, list) or not part.isdecimal() or int(part) >= len(inner):
            return None
        node = inner[int(part)]
    return node


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for child in value.values():
            yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)
    elif isinstance(value, str):
        yield value
