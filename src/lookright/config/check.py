"""Every `_target_` of a config is held against the signature that it will be called with."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from lookright.errors import ConfigError

RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check_config(config: DictConfig) -> None:
    """Raise ConfigError with all problems at once: values that are not set, keys that no signature takes."""
    problems = [f"{key} is not set; set {key}=..." for key in _missing(config)]
    for path, node in _targets(config):
        problems += _against_signature(path, node)
    if problems:
        raise ConfigError("\n".join(problems))


def _missing(config: DictConfig) -> list[str]:
    return sorted(OmegaConf.missing_keys(config))


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """All dictionaries that name a target, with their dotted path."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        children = [(str(key), key) for key in node]
    elif isinstance(node, ListConfig):
        children = [(str(index), index) for index in range(len(node))]
    else:
        return
    for name, key in children:
        try:
            child = node[key]
        except (MissingMandatoryValue, InterpolationResolutionError):
            continue
        yield from _targets(child, f"{path}.{name}" if path else name)


def _against_signature(path: str, node: DictConfig) -> list[str]:
    try:
        target = get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        return [f"{path}._target_={node['_target_']} cannot be imported: {error}"]
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    valid = [parameter.name for parameter in parameters]
    return [unknown_key(f"{path}.{key}", valid) for key in node if key not in RESERVED and key not in valid]


def unknown_key(path: str, valid: list[str]) -> str:
    """The message for a key that does not exist, with the nearest and all valid names."""
    key = path.rsplit(".", 1)[-1]
    near = get_close_matches(key, valid, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{path} does not exist; {hint}valid names: {', '.join(sorted(valid)) or 'none'}"
