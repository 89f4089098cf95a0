"""The folder of a run, as others read it: its config by one door, its model, and what a repetition takes of it."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lookright.config.entry import given_overrides
from lookright.config.renamed import new_names
from lookright.config.trust import check_references, check_targets, targets_of
from lookright.errors import ConfigError

CONFIG_FILE = "config.yaml"
EVAL_FOLDER = "eval"
"""Below a run's folder: what `infer.py run=` would have written."""
OBJECTIVE = "val/loss"
"""What a sweeper is told of a run without test sets."""


COMMANDS = {"trainer": "train.py", "source": "generate.py", "overlays": "infer.py", "grid": "tune_adaptive.py"}
"""By a key that its config alone has at the root, the command that writes it into a run's folder."""
NOTHING: tuple[str, ...] = ()
"""Of a config that is shown or compared, what is built."""


def read_config(
    folder: str | Path, key: str, *, builds: Collection[str] | None = None, trusted: Collection[str] = ()
) -> DictConfig:
    """What stands in `config.yaml` of a folder that the config key `key` names: the one way to read any run's config.

    Whoever wrote it, nothing of it is called that `config.trust` does not know: `builds` are the keys of the root whose
    objects the caller makes, None is all, and `trusted` what the user's own config names. Raises ConfigError where
    there is none, no config in it, or one that names what is not known.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{key}={folder} holds no {CONFIG_FILE}; set {key} to the folder of a run")
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{key}={folder}: {CONFIG_FILE} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{key}={folder}: {CONFIG_FILE} holds no keys; set {key} to the folder of a run")
    where = f"{key}={folder}: {CONFIG_FILE}"
    check_references(config, where)
    check_targets(config, Path(folder), where, builds, trusted)
    return config


def trusted_by(config: DictConfig) -> set[str]:
    """Return what a config that the user composed names of classes, and what its `trust` says."""
    return {*targets_of(config), *map(str, config.get("trust") or ())}


def refuse_other_command(folder: str | Path, key: str, config: DictConfig) -> None:
    """Raise ConfigError where the folder that `key` names holds the run of another command than that of `config`.

    To write there would lose its config, and with it what it takes to go on with that run or to use it.
    """
    if not (Path(folder) / CONFIG_FILE).is_file():
        return
    saved = read_config(folder, key, builds=NOTHING)
    own = next((name for name in COMMANDS if name in config), None)
    if own is not None and own not in saved:
        other = next((command for name, command in COMMANDS.items() if name in saved), "another program")
        raise ConfigError(f"{key}={folder} holds a run of {other}, not of {COMMANDS[own]}; set another {key}")


def own_config(folder: str | Path, key: str, known: DictConfig) -> DictConfig:
    """The config of a run of the command whose keys are those of `known`.

    Raises ConfigError for a run of another command, or of a version with other keys: a run is taken as it was or not
    at all.
    """
    refuse_other_command(folder, key, known)
    saved = read_config(folder, key, trusted=trusted_by(known))
    # runs that were saved before these keys were there repeat nothing
    strange = sorted({str(name) for name in set(saved) ^ set(known)} - {"repeat", "trust"})
    if strange:
        names = [str(name) for name in known]
        renamed = [told for told in (new_names(str(name), names) for name in saved) if told is not None]
        raise ConfigError(
            f"{key}={folder}: {CONFIG_FILE} was saved by another version of this program ({', '.join(strange)}); "
            "go on with that version (made_by.json or the log names it), or start anew with another output"
            f"{''.join(f'; {told}' for told in renamed)}"
        )
    # whom to trust is never read from there
    if "trust" in known:
        saved.trust = known.trust
    return saved


def repeated_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The saved config of the run that `config.repeat` names, with `overrides` on top and the output of `config`.

    `config` is composed with these overrides, which say whose values are taken from there. Raises ConfigError for a
    group whose files set keys elsewhere, as an experiment does.
    """
    folder = config.repeat
    saved = own_config(folder, "repeat", config)
    composed: Any = OmegaConf.to_container(config, resolve=False)
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = str(one.package or one.key_or_group).replace("/", ".")
        parent, _, name = key.rpartition(".")
        holder = _inside(composed, parent)
        if name in holder:
            OmegaConf.update(saved, key, holder[name], merge=False, force_add=True)
        elif not one.is_delete():
            raise ConfigError(
                f"repeat={folder}: {one.input_line} sets keys elsewhere, and nothing tells which of them are to go "
                "before those of the run; set the keys themselves"
            )
        elif name in _inside(OmegaConf.to_container(saved, resolve=False), parent):
            _delete(saved, parent, name)
    saved.output, saved.resume, saved.repeat = config.output, None, folder
    return saved


def _inside(plain: Any, path: str) -> Mapping[str, Any]:
    """The keys at a dotted path of plain containers; none where that is no mapping."""
    for part in path.split(".") if path else ():
        plain = plain.get(part) if isinstance(plain, Mapping) else None
    return plain if isinstance(plain, Mapping) else {}


def _delete(config: DictConfig, parent: str, name: str) -> None:
    holder = OmegaConf.select(config, parent) if parent else config
    del holder[name]


def run_model(run: str | Path, trusted: Collection[str] = ()) -> tuple[DictConfig, str | None]:
    """The backbone's config of a finished run, and its adapter folder, None where the model itself was tuned.

    `trusted` are classes, modules or packages that its backbone may be of, beside ours. Raises ConfigError for a folder
    that is none, or of a run that did not end.
    """
    folder = Path(run)
    saved = read_config(run, "run", builds=("backbone",), trusted=trusted)
    if not isinstance(saved.get("backbone"), DictConfig):
        raise ConfigError(f"run={run}: {CONFIG_FILE} names no backbone; set run to the folder of a train.py run")
    # by itself: what it refers to is left behind
    plain: Any = OmegaConf.to_container(saved.backbone, resolve=True)
    backbone = OmegaConf.create(plain)
    if (folder / "adapter").is_dir():
        return backbone, str(folder / "adapter")
    if not (folder / "model").is_dir():
        raise ConfigError(f"run={run} has neither adapter/ nor model/: it did not end; run train.py resume={run} first")
    if "path" not in backbone:
        raise ConfigError(f"run={run} made its backbone itself; set backbone.path={folder / 'model'} instead of run")
    backbone.path = str(folder / "model")
    return backbone, None


def with_run(config: DictConfig) -> DictConfig:
    """Fill in backbone and adapter from the training run. Raises ConfigError for a folder that is none."""
    if config.run is None:
        return config
    if config.adapter is not None:
        raise ConfigError(f"run={config.run} and adapter={config.adapter} are both set; remove one")
    own = [item for item in given_overrides() if re.match(r"[+~]*backbone\b", item)]
    if own:
        raise ConfigError(
            f"run={config.run} brings its backbone; remove {', '.join(own)}, or set adapter instead of run"
        )
    config.backbone, config.adapter = run_model(config.run, trusted_by(config))
    return config
