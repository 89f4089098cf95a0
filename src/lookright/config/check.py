"""A config is held against the signatures that it will be called with, and every problem is told at once."""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from lookright.config.annotations import OBJECT, misfits, passed_on
from lookright.config.references import ShortName, lost_references, origin, references
from lookright.config.renamed import new_names
from lookright.errors import ConfigError, LookRightError, ParameterError

SEED, OUTPUT = "seed", "output"
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
        if not isinstance(node, DictConfig):
            self._messages.append(f"{path}={node!r} does not fit; set {OBJECT}, or null")
            return None
        try:
            return instantiate(node, _convert_=convert)
        except InstantiationException as error:
            refused = own_error(error)
            if refused is None:
                raise
            if isinstance(refused, ParameterError):
                self._messages += self._refused(path, node, convert)
            else:
                self._messages += str(refused).split("\n")
        return None

    def _refused(self, path: str, node: DictConfig, convert: str) -> Iterator[str]:
        """Every argument that a constructor at or below `node` refuses, under the key that sets it."""
        for place, part in _targets(node, path):
            try:
                # each object alone, with configs for the objects that it holds: one that fails hides no other
                instantiate(part, _convert_=convert, _recursive_=False)
            except InstantiationException as error:
                refused = own_error(error)
                if isinstance(refused, ParameterError):
                    yield f"{origin(self.config, f'{place}.{refused.name}')}{refused.text}"

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
    lost = lost_references(config)
    yield from ((key, f"{key} is not there, and other keys take its value; set {key}=...") for key in lost)
    # of a config with such a key OmegaConf cannot tell the missing ones
    missing = [] if lost else sorted(OmegaConf.missing_keys(config))
    yield from ((key, f"{key} is not set; set {key}=...") for key in missing)
    referred = references(config)
    yield from _strange_roots(config, referred)
    seed = config.get(SEED)
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        yield SEED, f"{SEED}={seed}; set 0 to {2**32 - 1}"
    if config.get(OUTPUT) == "":
        # as where a variable of the shell is not set: it would be the working folder
        yield OUTPUT, f"{OUTPUT} is empty; set a folder, or leave it out"
    for path, node in _targets(config):
        for place, message in _against_signature(path, node, referred):
            # one value at fault is one line, however many refer to it
            yield origin(config, place), message.replace(place, origin(config, place), 1)


def _strange_roots(config: DictConfig, referred: set[str]) -> Iterator[tuple[str, str]]:
    """Keys of the root that the command does not have (`+` adds any), and that no other key refers to."""
    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):
        return
    valid = [entry.name for entry in fields(schema)]
    for key in (str(name) for name in config):
        if key not in valid and not any(path.partition(".")[0] == key for path in referred):
            yield key, new_names(key, valid) or unknown_key(key, valid)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """All dictionaries that name a target, with their dotted path; what is referred to counts where it stands."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        keys: list[Any] = list(node)
        children: list[tuple[str, Any]] = [(str(key), key) for key in keys if not OmegaConf.is_interpolation(node, key)]
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


def _against_signature(path: str, node: DictConfig, referred: set[str]) -> Iterator[tuple[str, str]]:
    try:
        target = get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        yield path, f"{path}._target_={node['_target_']} cannot be imported: {error}"
        return
    try:
        parameters = dict(inspect.signature(target, eval_str=True).parameters)
    except NameError:
        parameters = dict(inspect.signature(target).parameters)
    others = next((one for one in parameters.values() if one.kind is one.VAR_KEYWORD), None)
    passed = None if others is None else passed_on(others.annotation)
    if passed is not None:
        parameters = passed.parameters | {name: one for name, one in parameters.items() if one is not others}
        others = None
    keys: list[Any] = list(node)
    for key in keys:
        place = f"{path}.{key}"
        if key in parameters:
            yield from _against_annotation(place, node, key, parameters[key].annotation)
        elif key in RESERVED:
            continue
        elif passed is not None and key in passed.elsewhere:
            yield place, f"{place} is set by other means; {passed.elsewhere[key]}"
        elif others is None:
            yield place, unknown_key(place, list(parameters))
        elif others.annotation is ShortName:
            named = [name for name in parameters if name != others.name]
            yield from _unreferred(place, None if OmegaConf.is_missing(node, key) else node[key], referred, named)


def _unreferred(path: str, value: Any, referred: set[str], beside: list[str]) -> Iterator[tuple[str, str]]:
    """Keys that nothing refers to, neither itself nor what it lies in; `beside` are other valid names."""
    if path in referred:
        return
    if any(name.startswith(f"{path}.") for name in referred):
        keys: list[Any] = list(value) if isinstance(value, DictConfig) else []
        for key in keys:
            yield from _unreferred(f"{path}.{key}", value[key], referred, [])
        return
    folder = path.rpartition(".")[0]
    names = {name[len(folder) + 1 :].partition(".")[0] for name in referred if name.startswith(f"{folder}.")}
    yield path, unknown_key(path, [*beside, *names])


def _against_annotation(path: str, node: DictConfig, key: str, annotation: Any) -> Iterator[tuple[str, str]]:
    try:
        value = node[key]
    except (MissingMandatoryValue, InterpolationResolutionError):
        return
    for found in misfits(value, annotation):
        place = ".".join([path, *map(str, found.path)])
        choice = "" if found.path else _as_choice(path, node, value, found.wanted)
        yield place, f"{place}={found.value!r} does not fit; set {found.wanted}{choice}"


def _as_choice(path: str, node: DictConfig, value: Any, wanted: str) -> str:
    """Where a name stands for an object: how a file of a config group is chosen, and which there are."""
    if not isinstance(value, str) or OBJECT not in wanted:
        return ""
    group = origin(cast(DictConfig, node._get_root()), path).replace(".", "/")
    hydra = GlobalHydra.instance()
    names = hydra.config_loader().get_group_options(group) if hydra.is_initialized() else []
    valid = f"; valid: {', '.join(names)}" if names else ""
    return f", or choose its file with {group}={value}{valid}"


def unknown_key(path: str, valid: list[str], deeper: Collection[str] = ()) -> str:
    """The message for a key that does not exist, with the nearest and all valid names.

    `deeper` are paths of keys further below, one of which may have been meant.
    """
    key = path.rsplit(".", 1)[-1]
    names = Counter(place.rsplit(".", 1)[-1] for place in deeper)
    alone = {name: place for place in deeper if names[name := place.rsplit(".", 1)[-1]] == 1}
    if key in alone:
        near = [alone[key]]
    else:
        near = get_close_matches(key, valid, n=1) or [alone[name] for name in get_close_matches(key, alone, n=1)]
    return f"{path} does not exist; {_hint(near)}{_names(valid)}"


def nearest_of(name: str, valid: Collection[str]) -> str:
    """The part of a message that tells the nearest and all valid names."""
    return f"{_hint(get_close_matches(name, valid, n=1))}{_names(valid)}"


def _hint(near: Sequence[str]) -> str:
    return f"did you mean {near[0]}? " if near else ""


def _names(valid: Collection[str]) -> str:
    return f"valid names: {', '.join(sorted(valid)) or 'none'}"
