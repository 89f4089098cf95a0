"""A config is held against the signatures that it will be called with, and every problem is told at once."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from lookright.config.annotations import misfit
from lookright.errors import ConfigError, LookRightError

RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


class Problems:
    """Collects everything that is wrong with a config, so that all is told at once.

    Begins with what the config alone shows: values not set, unknown keys, values of another type. `build`
    adds what constructors refuse, and so does a `with` block, which ends at its first error.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self._messages: list[str] = []
        self._faulty: list[str] = []
        for path, message in _faults(config):
            self._faulty.append(path)
            self._messages.append(message)

    def build(self, path: str, convert: str = "none") -> Any:
        """The object of the `_target_` at a dotted path; None where that is null, faulty, or refused."""
        node = OmegaConf.select(self.config, path)
        if node is None or any(fault == path or fault.startswith(f"{path}.") for fault in self._faulty):
            return None
        with self:
            return instantiate(node, _convert_=convert)
        return None

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
    """Raise ConfigError with all that the config alone shows to be wrong."""
    Problems(config).finish()


def _faults(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Path and message of values not set, unknown keys, values of another type."""
    yield from ((key, f"{key} is not set; set {key}=...") for key in sorted(OmegaConf.missing_keys(config)))
    for path, node in _targets(config):
        yield from _against_signature(path, node)


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


def _against_signature(path: str, node: DictConfig) -> Iterator[tuple[str, str]]:
    try:
        target = get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        yield path, f"{path}._target_={node['_target_']} cannot be imported: {error}"
        return
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except NameError:
        parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in node:
        place = f"{path}.{key}"
        if key in parameters:
            yield from _against_annotation(place, node, key, parameters[key].annotation)
        elif key not in RESERVED and not takes_any:
            yield place, unknown_key(place, list(parameters))


def _against_annotation(path: str, node: DictConfig, key: str, annotation: Any) -> Iterator[tuple[str, str]]:
    try:
        value = node[key]
    except (MissingMandatoryValue, InterpolationResolutionError):
        return
    wanted = misfit(value, annotation)
    if wanted is not None:
        yield path, f"{path}={value!r} does not fit; set {wanted}"


def unknown_key(path: str, valid: list[str]) -> str:
    """The message for a key that does not exist, with the nearest and all valid names."""
    key = path.rsplit(".", 1)[-1]
    near = get_close_matches(key, valid, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{path} does not exist; {hint}valid names: {', '.join(sorted(valid)) or 'none'}"
