"""A config is held against the signatures that it will be called with, and every problem is told at once."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from lookright.config.annotations import misfit
from lookright.errors import ConfigError, LookRightError

RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


class Problems:
    """Collects the user's errors of several `with` blocks, so that all are told at once.

    A block ends at its first error; what a later block needs of it is not there, so guard that with `ok`.
    """

    def __init__(self) -> None:
        self._messages: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether no block has failed yet."""
        return not self._messages

    def __enter__(self) -> "Problems":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        own = own_error(error)
        if own is not None:
            self._messages += str(own).split("\n")
        return own is not None

    def finish(self) -> None:
        """Raise ConfigError with everything collected, each line once."""
        if self._messages:
            raise ConfigError("\n".join(dict.fromkeys(self._messages)))


def own_error(error: BaseException | None) -> LookRightError | None:
    """The user's error inside what Hydra wrapped around it, None where there is none."""
    while error is not None and not isinstance(error, LookRightError):
        error = error.__cause__
    return error


def check_config(config: DictConfig) -> None:
    """Raise ConfigError with all problems at once: values not set, unknown keys, values of another type."""
    problems = [f"{key} is not set; set {key}=..." for key in sorted(OmegaConf.missing_keys(config))]
    for path, node in _targets(config):
        problems += _against_signature(path, node)
    if problems:
        raise ConfigError("\n".join(problems))


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
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except NameError:
        parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    problems = []
    for key in node:
        if key in parameters:
            problems += _against_annotation(f"{path}.{key}", node, key, parameters[key].annotation)
        elif key not in RESERVED and not takes_any:
            problems.append(unknown_key(f"{path}.{key}", list(parameters)))
    return problems


def _against_annotation(path: str, node: DictConfig, key: str, annotation: Any) -> list[str]:
    try:
        value = node[key]
    except (MissingMandatoryValue, InterpolationResolutionError):
        return []
    wanted = misfit(value, annotation)
    return [] if wanted is None else [f"{path}={value!r} is {type(value).__name__}; set {wanted}"]


def unknown_key(path: str, valid: list[str]) -> str:
    """The message for a key that does not exist, with the nearest and all valid names."""
    key = path.rsplit(".", 1)[-1]
    near = get_close_matches(key, valid, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{path} does not exist; {hint}valid names: {', '.join(sorted(valid)) or 'none'}"
