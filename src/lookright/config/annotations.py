"""Whether a value of a config fits what a signature says of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, isabstract, isclass, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig

SEQUENCES = (list, tuple, Sequence, Collection)
NAMES = {NoneType: "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
OBJECT = "a mapping with _target_"


@dataclass(slots=True, frozen=True)
class ArgumentsOf:
    """Annotates `**arguments` that `target` is called with: its names are valid keys, with its own annotations.

    `elsewhere` are those that something else sets, each with what to do instead.
    """

    target: Callable[..., Any]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Those of the target that are passed on."""
        named = signature(self.target).parameters
        return {name: one for name, one in named.items() if name not in self.elsewhere}


def passed_on(annotation: Any) -> ArgumentsOf | None:
    """The `ArgumentsOf` in an annotation."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((one for one in annotation.__metadata__ if isinstance(one, ArgumentsOf)), None)


def misfit(value: Any, annotation: Any) -> str | None:
    """What should have been there, in words; None where the value fits or the annotation tells nothing.

    Only what a YAML file can say is judged: numbers, text, lists and mappings; objects are built from
    dictionaries with a `_target_`, which have a signature of their own.
    """
    options = _options(annotation)
    if any(_fits(value, option) for option in options):
        return None
    return " or ".join(dict.fromkeys(_words(option) for option in options))


def _options(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [annotation]


def _fits(value: Any, option: Any) -> bool:
    origin = get_origin(option) or option
    if origin is Literal:
        return value in get_args(option)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in NAMES:
        return isinstance(value, origin)
    if origin in SEQUENCES:
        return isinstance(value, ListConfig)
    if origin in (dict, Mapping):
        return isinstance(value, DictConfig) and "_target_" not in value
    if isclass(origin) and isabstract(origin):
        return isinstance(value, DictConfig) and "_target_" in value
    # an object, or no annotation at all
    return True


def _words(option: Any) -> str:
    origin = get_origin(option) or option
    if origin is Literal:
        return ", ".join(map(str, get_args(option)))
    if origin in NAMES:
        return NAMES[origin]
    if isclass(origin) and isabstract(origin) and origin not in (*SEQUENCES, Mapping):
        return OBJECT
    return "a list" if origin in SEQUENCES else "a mapping"
