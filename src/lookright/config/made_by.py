"""What made a page or a file of numbers, as a reader wants to see it, and what it takes to make it again."""

import json
import platform
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lookright.common.hashing import hash_text
from lookright.common.jsonl import write_atomically
from lookright.config.entry import given_overrides
from lookright.config.folders import IN_CHECKOUT
from lookright.config.inputs import Input, inputs_of
from lookright.config.references import REFERENCE
from lookright.errors import ConfigError

MADE_BY_FILE = "made_by.json"
PACKAGE = Path(__file__).parents[1]
SHOWN = ("command", "model", "adapter", "data", "decoding", "code", "date")
"""What a page shows of a record, each a text."""
PACKAGES = (
    "lookright",
    "torch",
    "transformers",
    "peft",
    "lightning",
    "tokenizers",
    "safetensors",
    "pillow",
    "numpy",
    "hydra-core",
    "omegaconf",
    "bitsandbytes",
    "deepspeed",
    "flash-attn",
    "easy_vqa",
)
"""Whose versions are told where they are installed: what numbers may depend on."""


@dataclass(slots=True, frozen=True, kw_only=True)
class MadeBy:
    """One run of a command. Paths are as they were given; None is what the command has no use for.

    The first seven are for readers (SHOWN). The others are for who wants it again, beside the resolved config in
    `config.yaml`: what the command line set; the commit, and a hash of what tracked files differ from it, both None
    outside of a checkout; versions by package, Python too; inputs by config key (`config.inputs`). They are empty in
    the files of versions that did not tell them. `went_on` has a line for each start that went on with other code.
    """

    command: str
    model: str | None
    adapter: str | None
    data: str
    decoding: str | None
    code: str
    date: str
    overrides: list[str] = field(default_factory=list)
    commit: str | None = None
    changes: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    went_on: list[str] = field(default_factory=list)

    def write(self, folder: Path, name: str = MADE_BY_FILE) -> None:
        """Into the run's folder, whole or not at all."""
        write_atomically(folder / name, [json.dumps(asdict(self), indent=2) + "\n"])

    def code_differences(self, earlier: "MadeBy") -> list[str]:
        """Return what differs in code and packages from an earlier run, a text each; nothing where that says none."""
        if not earlier.versions:
            return []
        now, then = (one.versions | {"code": one.code} for one in (self, earlier))
        found = [
            f"{name} was {then.get(name, 'not there')}, is {now.get(name, 'not there')}"
            for name in dict.fromkeys((*then, *now))
            if then.get(name) != now.get(name)
        ]
        same_commit = self.code == earlier.code and self.commit == earlier.commit
        if same_commit and self.changes != earlier.changes:
            found.append("the changes of the code since its commit are others")
        return found

    def changed_inputs(self, now: Mapping[str, Input], made: str) -> dict[str, str]:
        """Return what of `now` is not what it was, by its hash, a text by key; `made` is how messages call the run."""
        return {
            key: f"{key}: {one.path} is not what {made} was made of ({one.covers}: {one.hash}, it was {before.hash} of "
            f"{before.path}); put it back as it was"
            for key, one in now.items()
            if (before := self.inputs.get(key)) is not None and one.hash != before.hash
        }


def read_made_by(folder: Path, name: str = MADE_BY_FILE) -> MadeBy | None:
    """What a run says of itself; None for the folder of a run that does not. Raises ConfigError for a broken file."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        inputs = {key: Input(**one) for key, one in plain.pop("inputs", {}).items()}
        return MadeBy(**plain, inputs=inputs)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no record of a run ({error}); write it back as it was, or delete it") from error


def refuse_other_inputs(folder: Path, config: DictConfig, keys: Collection[str]) -> None:
    """Raise ConfigError where the run in a folder, or a shard of it, read other data or weights than are there now.

    What it made would stay and be taken for what they give. `keys` are the keys of the root that decide it.
    """
    now = {key: one for key, one in inputs_of(config).items() if key.partition(".")[0] in keys}
    names = [MADE_BY_FILE, *(f"shards/{one.name}" for one in folder.glob("shards/made_by-*.json"))]
    records = [record for name in names if (record := read_made_by(folder, name)) is not None]
    changed = [text for record in records for text in record.changed_inputs(now, f"output={folder}").values()]
    if changed:
        raise ConfigError("\n".join(f"{text}, or set another output" for text in dict.fromkeys(changed)))


def made_by(config: DictConfig, script: str, data: str) -> MadeBy:
    """The record of a run of `script` with `config`; `data` says what it worked on. Reads weights for their hash."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    adapter = plain.get("adapter") or (plain.get("tuning") or {}).get("adapter")
    decode = plain.get("decode")
    dtype = plain.get("dtype") or (plain.get("trainer") or {}).get("model_dtype")
    return MadeBy(
        command=command_line(script),
        model=None if plain.get("backbone") is None else describe_backbone(plain["backbone"], dtype),
        adapter=None if adapter is None else shown_path(adapter),
        data=data,
        decoding=None if decode is None else _described("decode", decode),
        code=code_version(),
        date=today(),
        overrides=given_overrides(),
        commit=_checkout()[0],
        changes=_checkout()[1],
        versions=package_versions(),
        inputs=inputs_of(config),
    )


def package_versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def command_line(script: str) -> str:
    """What was typed, where Hydra ran the command; the name of the function where a program called it."""
    if not HydraConfig.initialized():
        return f"{script}, called from Python"
    sources = HydraConfig.get().runtime.config_sources
    folders = [part for one in sources if one.provider == "command-line" for part in ("--config-dir", one.path)]
    installed = f"lookright-{script.removesuffix('.py').replace('_', '-')}"
    command = ["python", *script.split()] if IN_CHECKOUT else [installed]
    return shown_path(shlex.join([*command, *folders, *given_overrides()]))


def describe_backbone(backbone: Mapping[str, Any], dtype: str | None = None) -> str:
    """Folder or hub name, class and precision; weights that lie in the package go by the name of their folder."""
    kind = str(backbone["_target_"]).rpartition(".")[2]
    path = backbone.get("path")
    if path is None:
        return f"{kind}, made by the run itself"
    name = Path(path).name if Path(path).is_relative_to(PACKAGE) else shown_path(path)
    return ", ".join(part for part in (f"{name} ({kind})", dtype, backbone.get("quantization")) if part)


def describe_data(data: Mapping[str, Any]) -> str:
    """The files of a `data` group."""
    paths = data.get("path")
    paths = [paths] if isinstance(paths, str) else paths or []
    # the example records lie in the package
    shown = [Path(path).name if Path(path).is_relative_to(PACKAGE) else shown_path(path) for path in paths]
    return ", ".join(shown) or str(data.get("_target_", "")).rpartition(".")[2]


def shown_path(text: str) -> str:
    """A text without the path of the working folder: commands that call each other make paths absolute."""
    return text.replace(f"{Path.cwd()}/", "")


def today() -> str:
    """The day, UTC: a run that was killed and goes on ends in the same page."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def code_version() -> str:
    """The package's version; where it runs from its own checkout, the commit, and whether files differ from it."""
    try:
        version = metadata.version("lookright")
    except metadata.PackageNotFoundError:
        version = "unknown version"
    commit, changes = _checkout()
    return version if commit is None else f"{version}, commit {commit[:10]}{'' if changes is None else ' with changes'}"


@cache
def _checkout() -> tuple[str | None, str | None]:
    """The commit of the package's own checkout, and a hash of how tracked files differ from it; None each for none."""
    root = PACKAGE.parents[1]
    # elsewhere, as in site-packages, git would tell of a checkout that holds the environment
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    changes = _git(root, "diff", "HEAD", "--no-ext-diff") if commit else None
    return commit or None, hash_text(changes) if changes else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _described(group: str, options: Mapping[str, Any]) -> str:
    """A config group's choice with its values."""
    choice = HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None
    return ", ".join([choice or str(options["_target_"]).rpartition(".")[2], *described_values(options)])


def described_values(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key=value` of everything that is set in a config group, nested keys with dots; what refers to another is not.

    Of an object inside that has values, the class is told where the key does not name it.
    """
    for key, value in options.items():
        if isinstance(value, Mapping):
            inside = list(described_values(value, f"{prefix}{key}."))
            kind = str(value.get("_target_", "")).rpartition(".")[2]
            if inside and kind and kind.lower() != str(key):
                yield f"{prefix}{key}={kind}"
            yield from inside
        elif isinstance(value, str) and REFERENCE.fullmatch(value):
            continue
        elif value is not None and not key.startswith("_"):
            yield f"{prefix}{key}={shown_path(str(value))}"
