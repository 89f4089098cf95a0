"""From the `loss` group of a config to the composite loss."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from lookright.errors import ConfigError
from lookright.losses import preference
from lookright.losses.attention import AttentionLoss
from lookright.losses.base import PreferenceTerm, Term
from lookright.losses.composite import CompositeLoss
from lookright.losses.sft import SFTLoss


def build_loss(
    kind: str = "dpo",
    alpha: float = 1.0,
    gamma: float = 0.1,
    beta: float | None = None,
    attention: Mapping[str, Any] | None = None,
    **options: Any,
) -> CompositeLoss:
    """alpha x preference term + gamma x SFT + attention.weight x attention term.

    `kind` is the name of a file in `losses/preference/`, or `package.module.Class` of a term elsewhere.
    `attention` has `weight`, `threshold`, `layers` and `rows`; `options` go to the preference term's constructor.
    None, for `beta` and any option, is the term's own default. Raises ConfigError with every problem, one a line.
    """
    problems: list[str] = []
    terms: dict[str, tuple[float, Term]] = {}
    preference_term = _attempt(problems, _preference_term, kind, {"beta": beta, **options})
    attention_weight, attention_term = _attempt(problems, _attention_term, attention) or (0.0, None)
    for key, weight in (("loss.alpha", alpha), ("loss.gamma", gamma), ("loss.attention.weight", attention_weight)):
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            problems.append(f"{key}={weight!r} is out of range; set a number >= 0")
    if problems:
        raise ConfigError("\n".join(problems))
    if preference_term.contains_sft and alpha > 0 and gamma > 0:
        raise ConfigError(
            f"loss.kind={kind} already contains the likelihood term that loss.gamma={gamma:g} would add again; "
            "set loss.gamma=0"
        )
    terms[preference_term.name] = (alpha, preference_term)
    terms["sft"] = (gamma, SFTLoss())
    if attention_term is not None:
        terms["attention"] = (attention_weight, attention_term)
    return CompositeLoss(terms)


def preference_kinds() -> list[str]:
    """Valid names of `loss.kind`: the files of `losses/preference/`."""
    return sorted(module.name for module in pkgutil.iter_modules(preference.__path__))


def preference_class(kind: str) -> type[PreferenceTerm]:
    """The class behind a `loss.kind`. Raises ConfigError with the valid names."""
    if kind in preference_kinds():
        module = importlib.import_module(f"{preference.__name__}.{kind}")
        own = [
            value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        (found,) = [value for value in own if issubclass(value, PreferenceTerm)]
        return found
    module_name, _, class_name = str(kind).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name) if module_name else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"loss.kind={kind} cannot be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, PreferenceTerm)):
        raise ConfigError(
            f"loss.kind={kind!r} is unknown; set one of {', '.join(preference_kinds())}, "
            "or package.module.Class of a PreferenceTerm"
        )
    return found


def _preference_term(kind: str, options: Mapping[str, Any]) -> PreferenceTerm:
    wanted = preference_class(kind)
    accepted = [name for name in inspect.signature(wanted.__init__).parameters if name != "self"]
    given = {name: value for name, value in options.items() if value is not None}
    # No smoothing is what every kind does that knows none, so 0 asks for nothing.
    unused = [name for name in given if name not in accepted and not (name == "label_smoothing" and given[name] == 0)]
    if unused:
        raise ConfigError(
            "\n".join(
                f"loss.{name}={given[name]!r} is not used by loss.kind={kind}, which takes "
                f"{', '.join(f'loss.{key}' for key in accepted)}; remove it or choose another kind"
                for name in unused
            )
        )
    return wanted(**{name: value for name, value in given.items() if name in accepted})


def _attention_term(attention: Mapping[str, Any] | None) -> tuple[float, AttentionLoss | None]:
    """Weight and term; a weight of 0 leaves the term out but its values are still checked."""
    if attention is None:
        return 0.0, None
    unknown = sorted(set(attention) - {"weight", "threshold", "layers", "rows"})
    if unknown:
        raise ConfigError(f"loss.attention.{unknown[0]} is unknown; valid keys are weight, threshold, layers, rows")
    options = {key: attention[key] for key in ("threshold", "layers", "rows") if attention.get(key) is not None}
    return attention.get("weight", 0.9), AttentionLoss(**options)


def _attempt(problems: list[str], make: Any, *arguments: Any) -> Any:
    """`make(*arguments)`; a ConfigError is added to `problems` instead, and None returned."""
    try:
        return make(*arguments)
    except ConfigError as error:
        problems.append(str(error))
        return None
