"""Whether a value of a config fits what a signature says of it."""

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import Parameter, isabstract, isclass, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from pydantic import BeforeValidator, ConfigDict, PlainValidator, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

Place = tuple[str | int, ...]
"""Keys and indices."""
OBJECT = "a mapping with _target_"
MISSING = "???"
WORDS = {
    "none_required": "null",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "missing": "a longer list",
    "too_long": "a shorter list",
    "object": OBJECT,
}
"""Pydantic's names of what is wrong, as what is to be set."""
PLAIN = (NoneType, str, int, float, bool)


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


@dataclass(slots=True, frozen=True, kw_only=True)
class Misfit:
    """What does not fit: its `path` from the value on (empty: the value itself), and what to set, in words."""

    path: Place
    value: Any
    wanted: str


def misfits(value: Any, annotation: Any) -> list[Misfit]:
    """Return what does not fit, items of lists and mappings each by itself; nothing where the annotation tells nothing.

    Only what a YAML file can say is judged: numbers, text, lists and mappings; objects are built from
    dictionaries with a `_target_`, which have a signature of their own.
    """
    try:
        plain = OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value
        _adapter(annotation).validate_python(plain)
    except ValidationError as error:
        return list(_told(plain, error.errors(include_url=False), NoneType in get_args(annotation)))
    except InterpolationResolutionError:
        # what refers to a key that is not there is told where the key is missing
        pass
    return []


def _told(plain: Any, errors: Sequence[ErrorDetails], may_be_null: bool) -> Iterator[Misfit]:
    """One misfit a place; of a union's members, the one that fits furthest says which places these are."""
    members: dict[Any, set[Place]] = {}
    words: dict[Place, list[str]] = {(): []}
    for error in errors:
        location, path = error["loc"], _place(plain, error["loc"])
        members.setdefault(None if location[:1] == path[:1] else location[0], set()).add(path)
        words.setdefault(path, []).append(_words(error))
    words[()] += ["null"] if may_be_null else []
    nearest = min(members.values(), key=lambda paths: (() in paths, len(paths)))
    for path in words:
        found = _at(plain, path)
        # a value that is not set is told as such
        if path in nearest and found != MISSING:
            yield Misfit(path=path, value=found, wanted=" or ".join(dict.fromkeys(words[path])))


def _place(plain: Any, location: Place) -> Place:
    """Keys and indices of a location, without pydantic's names of the members of unions."""
    path: list[str | int] = []
    for part in location:
        node = _at(plain, path)
        if part in (node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()):
            path.append(part)
    return tuple(path)


def _at(plain: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        plain = plain[part]
    return plain


def _words(error: ErrorDetails) -> str:
    if error["type"] in WORDS:
        return WORDS[error["type"]]
    return str(error.get("ctx", {}).get("expected", error["msg"]))


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_judged(annotation), config=ConfigDict(strict=True))


def _judged(annotation: Any) -> Any:
    """The annotation as YAML can keep it: a list for every sequence, a mapping with a `_target_` for an abstract class.

    Any for other classes: what their objects are made of, and whether a name will do, is their own affair.
    """
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in PLAIN:
        return annotation
    if origin is Literal:
        return Annotated[Any, PlainValidator(partial(_choice, arguments))]
    inner = tuple(_judged(part) for part in arguments if part is not Ellipsis)
    if origin in (Union, UnionType):
        return Union[inner]  # noqa: UP007
    if origin is tuple and inner and Ellipsis not in arguments:
        # not strict, since YAML has lists alone
        return Annotated[types.GenericAlias(tuple, inner), Strict(False)]
    if origin in (list, tuple, Sequence, Collection):
        return types.GenericAlias(list, inner[:1] or (Any,))
    if origin in (dict, Mapping):
        return Annotated[types.GenericAlias(dict, (Any, *(inner[1:] or (Any,)))), BeforeValidator(_no_object)]
    return Annotated[Any, PlainValidator(_object)] if isclass(origin) and isabstract(origin) else Any


def _choice(options: tuple[Any, ...], plain: Any) -> Any:
    if plain in options:
        return plain
    raise PydanticCustomError("literal_error", "{expected}", {"expected": ", ".join(map(str, options))})


def _object(plain: Any) -> Any:
    if isinstance(plain, dict) and "_target_" in plain:
        return plain
    raise PydanticCustomError("object", OBJECT)


def _no_object(plain: Any) -> Any:
    if isinstance(plain, dict) and "_target_" in plain:
        raise PydanticCustomError("dict_type", "a mapping")
    return plain
