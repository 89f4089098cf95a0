"""What the config of somebody else's run may name: classes of ours, of the base that their key asks for.

Hydra imports and calls whatever a `_target_` says. What stands in our files, below a `--config-dir` or on the command
line are the user's own words; a `config.yaml` that came with a folder is not, and is read through here.
"""

import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lookright.config.annotations import passed_on
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.references import REFERENCE, ShortName
from lookright.errors import ConfigError

BASES = {
    "backbone": ("lookright.backbones.base.Backbone",),
    "data": ("lookright.training.datamodule.PreferenceData", "lookright.evaluation.questions.Questions"),
    "loss": ("lookright.losses.composite.CompositeLoss",),
    "loss.kind": ("lookright.losses.base.Term",),
    "reference": ("lookright.reference.base.Reference",),
    "tuning": ("lookright.tuning.lora.LoraTuning", "lookright.tuning.full.FullTuning"),
    "optimizer": ("torch.optim.Optimizer",),
    "schedule": ("lookright.training.optimization.Schedule", "torch.optim.lr_scheduler.LRScheduler"),
    "trainer": ("lookright.training.trainer.TrainerSettings",),
    "logger": ("lookright.training.loggers.RunLogger",),
    "callbacks": ("lightning.pytorch.callbacks.Callback",),
    "eval": ("lookright.commands.evaluating.Evaluation",),
    "decode": ("lookright.answering.decoder.Decoder",),
    "metrics": ("lookright.evaluation.metric.Metric",),
    "grid": ("lookright.answering.adaptive_grid.AdaptiveGrid",),
}
"""By key: what is built there, one object or a mapping of several. What these hold, their signatures say."""
OURS = re.compile(r"(lookright(?:\.[a-z]\w*)+)\.([A-Z]\w*)")
LIBRARIES = re.compile(r"(torch\.optim(?:\.lr_scheduler)?|lightning\.pytorch\.callbacks)\.([A-Z]\w*)")
"""Of libraries, what configs of ours name."""
WRITERS = ("logger", "callbacks")
"""Keys whose objects write files where their values say."""
_NAMED = re.compile(r"_target_\s*['\"]?\s*:\s*['\"]?([\w.]+)")
_POSITIONAL = "_args_"


def check_references(config: DictConfig, where: str) -> None:
    """Raise ConfigError where a value asks a resolver, which could tell of the environment and of files.

    What stays is `${key}` for another key of the same config, never in a `_target_`.
    """
    lines = [
        f"{where}: {path} holds {text!r}; the config of a run refers to its own keys alone, as ${{seed}} does: "
        "write the value there"
        for path, text in _texts(OmegaConf.to_container(config, resolve=False))
        if "${" in text and (path.endswith("_target_") or not REFERENCE.fullmatch(text))
    ]
    if lines:
        raise ConfigError("\n".join(lines))


def check_targets(
    config: DictConfig, folder: Path, where: str, builds: Collection[str] | None, trusted: Collection[str]
) -> None:
    """Raise ConfigError for what the config of the run in `folder` would build and does not say by a known name.

    `builds` are the keys of the root that are built, None is all. `trusted` are names of classes, modules or packages;
    what the user's own config names is trusted too. Nothing outside of the package and `LIBRARIES` is imported before
    its name is found there.
    """
    if builds is not None and not builds:
        return
    told = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    if "output" in told:
        # as the run that goes on has it
        told.output = str(folder)
    try:
        plain: Any = OmegaConf.to_container(told, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}; write it back as the run saved it") from error
    keys = [str(key) for key in plain if builds is None or key in builds]
    trusted = {*trusted, *_own_words()}
    lines = [line for key in keys for line in _faults(plain[key], key, _bases(key), trusted)]
    lines += [line for key in keys if key in WRITERS for line in _strays(plain[key], key, folder)]
    if lines:
        raise ConfigError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines)))


def targets_of(config: Any) -> set[str]:
    """Return every `_target_` that a config names."""
    plain = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    return {text for path, text in _texts(plain) if path.endswith("_target_")}


def _own_words() -> set[str]:
    """Classes that the command line names, by itself or by files of a folder that it brings."""
    if not HydraConfig.initialized():
        return set()
    hydra = HydraConfig.get()
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    files = [file for folder in folders if folder != CONFIG_FOLDER for file in folder.rglob("*.yaml")]
    texts = [*hydra.overrides.task, *(file.read_text(encoding="utf-8", errors="replace") for file in files)]
    return {name for text in texts for name in _NAMED.findall(text)}


def _faults(value: Any, path: str, bases: tuple[type, ...], trusted: Collection[str]) -> Iterator[str]:
    """What is wrong at and below a place where an object of `bases` may stand, or several in a list or mapping."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _faults(one, f"{path}.{number}", bases, trusted)
    if not isinstance(value, Mapping):
        return
    if "_target_" not in value:
        for key, one in value.items():
            yield from _faults(one, f"{path}.{key}", bases, trusted)
        return
    name = str(value["_target_"])
    found = _imported(name) if _is_trusted(name, trusted) else _ours(name)
    if found is None or (not _is_trusted(name, trusted) and not issubclass(found, bases)):
        yield f"{path}._target_={name} {_refusal(name, found, bases)}"
        return
    if _POSITIONAL in value:
        yield f"{path}.{_POSITIONAL} is set; the config of a run names its arguments: remove it"
    for key, one in value.items():
        yield from _faults(one, f"{path}.{key}", _argument(found, path, str(key)), trusted)


def _is_trusted(name: str, trusted: Collection[str]) -> bool:
    """Whether the user named it, or a module or package that it is in; what is ours, or Python's own, needs no name."""
    if name.partition(".")[0] in {*sys.stdlib_module_names, "lookright"}:
        return False
    return any(name == one or name.startswith(f"{one}.") for one in trusted)


def _refusal(name: str, found: type | None, bases: tuple[type, ...]) -> str:
    """Why a name is not called, and what to do."""
    top = name.partition(".")[0]
    if found is not None or top == "lookright":
        wanted = " or ".join(base.__qualname__ for base in bases) or "nothing that is built"
        return f"is not what stands there ({wanted}): write the config back as the run saved it"
    if top in sys.stdlib_module_names:
        return "is none of our classes but Python's own, and no run saves that: do not use the folder, or write it back"
    return (
        f"is none of our classes, and of a config that came with a folder nothing else is called; where it is your own "
        f"or you know what it does, set trust=[{name.rpartition('.')[0] or name}], or bring the file that names it by "
        "--config-dir"
    )


def _ours(name: str) -> type | None:
    """The class of a dotted name, where it is defined in the package or told by one of `LIBRARIES`."""
    found = OURS.fullmatch(name) or LIBRARIES.fullmatch(name)
    if found is None or name.startswith("lookright.") and not _is_module(found[1]):
        return None
    value = getattr(import_module(found[1]), found[2], None)
    # a module of ours also holds what it imports
    if not isinstance(value, type) or (name.startswith("lookright.") and value.__module__ != found[1]):
        return None
    return value


def _is_module(name: str) -> bool:
    """Whether the package has a module of that name."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _imported(name: str) -> Any:
    """What the user trusts; where it is not there, something without arguments: the check of the config tells."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(import_module(module), last, object)
    except (ImportError, ValueError):
        return object


def _bases(path: str) -> tuple[type, ...]:
    """Classes that may stand at a key of the root; none where nothing is built."""
    names = (name.rsplit(".", 1) for name in BASES.get(path, ()))
    return tuple(getattr(import_module(module), last) for module, last in names)


def _argument(target: Any, path: str, key: str) -> tuple[type, ...]:
    """Classes that an argument may hold, by the annotation of `target`, itself or below a list or mapping."""
    if f"{path}.{key}" in BASES:
        return _bases(f"{path}.{key}")
    try:
        parameters = dict(inspect.signature(target, eval_str=True).parameters)
    except (TypeError, ValueError, NameError):
        return ()
    if key not in parameters:
        others = next((one.annotation for one in parameters.values() if one.kind is one.VAR_KEYWORD), None)
        passed = None if others in (None, ShortName) else passed_on(others)
        parameters = {} if passed is None else passed.parameters
    return tuple(_classes(parameters[key].annotation)) if key in parameters else ()


def _classes(annotation: Any) -> Iterator[type]:
    """Classes of the package in an annotation: those of which an object can be made."""
    if isinstance(annotation, type) and annotation.__module__.startswith("lookright."):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _strays(value: Any, path: str, folder: Path) -> Iterator[str]:
    """Paths in the values of what writes files that lead out of the run's folder."""
    home = folder.resolve()
    for place, text in _texts(value, path):
        leaves = Path(text).is_absolute() or ".." in Path(text).parts
        if leaves and not Path(text).resolve().is_relative_to(home):
            yield f"{place}={text} leads out of the folder of the run; set it to a path inside, or to null"


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of plain containers with its dotted path, keys too."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            place = f"{path}.{key}" if path else str(key)
            yield from ((place, text) for text in (str(key),) if "${" in text)
            yield from _texts(child, place)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _texts(child, f"{path}.{number}")
    elif isinstance(value, str):
        yield path, value
