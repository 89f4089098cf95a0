"""What `--help` prints: a command's groups and keys, with the comments of the YAML files that a config is made of.

Hydra's own page has no comments, names the groups of all commands, and takes longer than all else to list them.
"""

import os
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import RESERVED
from lookright.config.folders import CONFIG_FOLDER, EXPERIMENT_FOLDER, IN_CHECKOUT
from lookright.config.manual import ConfigFile, group_below, read_file
from lookright.config.references import REFERENCE

WIDTH = 100
COLUMN = 44
"""Where comments begin."""
GROUP_COLUMN = 18
LAUNCHER = "hydra/launcher"
"""The group of Hydra's own that has files here."""
HOW = """\
KEY=VALUE sets a key and GROUP=OPTION chooses a file of a group; with -m both take several values, separated by \
commas, and every combination is a job. What stands below is what these arguments give: --help GROUP=OPTION tells of \
that option. ??? must be set."""
FLAGS = """\
--cfg job prints the config as YAML, --config-dir FOLDER adds files of one's own, --hydra-help names all flags."""


def asked_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line is for `print_help`."""
    return any(argument in ("--help", "-h") for argument in arguments)


def print_help(config_name: str, arguments: Sequence[str], folder: Path = CONFIG_FOLDER) -> None:
    """Print the page for a command line; raises what Hydra raises where its config cannot be composed."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--config-path", "-cp", type=Path, default=folder)
    parser.add_argument("--config-name", "-cn", default=config_name)
    parser.add_argument("--config-dir", "-cd", type=Path)
    flags, rest = parser.parse_known_args(arguments)
    overrides = [argument for argument in rest if not argument.startswith("-")]
    if flags.config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{flags.config_dir.absolute()}]")
    with initialize_config_dir(str(flags.config_path.absolute()), version_base="1.3"):
        root = compose(flags.config_name, overrides, return_hydra_config=True)
    try:
        print(help_page(root), flush=True)
    except BrokenPipeError:
        # `--help | head` has read enough; what is left would be written again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def help_page(root: DictConfig) -> str:
    """The text for a composed config with Hydra's own part."""
    name = str(root.hydra.job.config_name)
    files = _Files(root)
    example = str(root.hydra.help.footer)
    if not IN_CHECKOUT:
        example = example.replace(f"python {name}.py", f"lookright-{name.replace('_', '-')}")
    example = " \\\n      ".join(textwrap.wrap(example, WIDTH - 4, break_long_words=False, break_on_hyphens=False))
    parts = [
        [textwrap.fill(root.hydra.help.header, WIDTH), "", f"  {example}", "", *textwrap.wrap(HOW, WIDTH)],
        ["Groups (* is chosen)", *_groups(files)],
        ["Keys", *_keys(root, files)],
        textwrap.wrap(FLAGS, WIDTH),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


class _Files:
    """The YAML files that a config is made of, and those that could have been."""

    def __init__(self, root: DictConfig) -> None:
        sources = root.hydra.runtime.config_sources
        self.folders = [Path(one.path) for one in sources if one.schema == "file"]
        self.keys = {str(key) for key in root if key != "hydra"}
        told = {str(group): option for group, option in root.hydra.runtime.choices.items()}
        own = {group: option for group, option in told.items() if "hydra/" not in group or group == LAUNCHER}
        chosen = {group: _names(option) for group, option in own.items()}
        self.choices: dict[str, list[str]] = dict(chosen)
        """Options of every group that the command has, those of which nothing is chosen too."""
        self.comments: dict[str, str] = {}
        """Of every key, by its path; the one that stands nearest to the value."""
        self._add("", "", str(root.hydra.job.config_name))
        for group, options in chosen.items():
            folder, _, package = group.partition("@")
            for option in options:
                self._add(folder, package or folder.replace("/", "."), option)

    def options(self, group: str) -> list[str]:
        """Names of the files of a group, of experiments those that this command has all keys and groups for."""
        folder = group.partition("@")[0]
        paths = [path for place in self._places(folder) for path in place.glob("*.yaml")]
        if folder == "experiment":
            paths = [path for path in paths if self._suits(read_file(path))]
        return sorted({path.stem for path in paths})

    def _places(self, folder: str) -> list[Path]:
        return [*(place / folder for place in self.folders), *([EXPERIMENT_FOLDER] if folder == "experiment" else [])]

    def _suits(self, file: ConfigFile) -> bool:
        keys = {key.path.partition(".")[0] for key in file.keys} - {"hydra"}
        return keys <= self.keys and file.choices.keys() <= self.choices.keys()

    def _add(self, folder: str, package: str, option: str) -> None:
        """Take over the comments of a file, after those of the files that it builds on."""
        path = next((path for place in self._places(folder) if (path := place / f"{option}.yaml").is_file()), None)
        if path is None:
            return
        file = read_file(path)
        for base in file.bases:
            self._add(base.rpartition("/")[0].lstrip("/") or folder, package, base.rpartition("/")[2])
        for group in () if file.is_global else file.choices:
            if "@" not in group:
                self.choices.setdefault(group_below(folder, group) if folder else group, [])
        prefix = "" if file.is_global or not package else f"{package}."
        inside = {name.replace("/", "."): comment for name, (_, comment) in file.choices.items() if "@" not in name}
        own = inside | {key.path: key.comment for key in file.keys}
        told = {f"{prefix}{name}": comment for name, comment in own.items() if comment}
        if file.is_global:
            # it says why it sets a value, not what the key is
            self.comments = told | self.comments
            return
        self.comments |= told
        if file.comment and package:
            # of a group within another the other's file has told already what it is for
            kept = self.comments.get(package) if "." in package else None
            self.comments[package] = kept or file.comment


def _names(option: Any) -> list[str]:
    """Options of a choice: none, one or several."""
    if option is None or isinstance(option, str):
        return [option] if option else []
    return [str(one) for one in option]


def _groups(files: _Files) -> Iterator[str]:
    """A line or more for each group."""
    for group, chosen in sorted(files.choices.items()):
        names = [f"*{name}" if name in chosen else name for name in files.options(group)]
        if names:
            yield from _beside(f"  {group}", "  ".join(names), GROUP_COLUMN)


def _keys(root: DictConfig, files: _Files) -> Iterator[str]:
    """Keys of the root, then group by group."""
    nodes: dict[str, Any] = {str(key): root._get_node(key) for key in root if key != "hydra"}
    for name, node in nodes.items():
        if not _holds_keys(node):
            yield from _key(name, node, files.comments)
    if files.choices.get(LAUNCHER) != ["basic"]:
        nodes["hydra.launcher"] = root.hydra.launcher
    for name, node in nodes.items():
        if _holds_keys(node):
            group = name.replace(".", "/")
            options = files.choices.get(group)
            yield ""
            yield from _beside(f"{group}={','.join(options)}" if options else name, files.comments.get(name, ""))
            yield from _below(name, node, files.comments)


def _below(path: str, node: DictConfig, comments: Mapping[str, str]) -> Iterator[str]:
    """Keys below a mapping. Those that only hand on the value of another have a line where a comment tells of them."""
    for name in node:
        child: Any = node._get_node(name)
        place = f"{path}.{name!s}"
        if name in RESERVED or (place not in comments and _hands_on(child)):
            continue
        if not _holds_keys(child):
            yield from _key(place, child, comments)
            continue
        below = list(_below(place, child, comments))
        if below and place in comments:
            yield from _beside(f"  {place}", comments[place])
        yield from below


def _holds_keys(node: Any) -> bool:
    return isinstance(node, DictConfig) and isinstance(node._content, dict) and len(node) > 0


def _hands_on(node: Any) -> bool:
    raw = node._value()
    return isinstance(raw, str) and REFERENCE.fullmatch(raw) is not None


def _key(path: str, node: Any, comments: Mapping[str, str]) -> Iterator[str]:
    raw = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node._value()
    value = yaml.safe_dump(raw, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    # a scalar is a document of its own, and ends with its sign
    value = value.removesuffix("\n").removesuffix("\n...")
    return _beside(f"  {path}={value}", comments.get(path, ""))


def _beside(left: str, right: str, column: int = COLUMN) -> Iterator[str]:
    """Two columns; the second begins a line lower where the first is too long."""
    lines = textwrap.wrap(right, WIDTH - column, break_long_words=False, break_on_hyphens=False)
    if len(left) + 2 > column or not lines:
        yield left
    else:
        yield left.ljust(column) + lines.pop(0)
    yield from (" " * column + line for line in lines)
