"""Writes `docs/config.md`, the keys and comments of the config files; run as `python -m lookright.config.manual`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lookright.config import schema
from lookright.config.folders import CONFIG_FOLDER, EXPERIMENT_FOLDER, HOME, IN_CHECKOUT

PAGE = HOME / "docs" / "config.md"
ROOTS = {
    "generate": schema.GenerateConfig,
    "train": schema.TrainConfig,
    "infer": schema.InferConfig,
    "tune_adaptive": schema.TuneAdaptiveConfig,
    "ask": schema.AskConfig,
    "export": schema.ExportConfig,
    "serve": schema.ServeConfig,
}
"""Each command's file in `conf/`, and the class that lists its root keys."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same nodes from libyaml where that is there, in a tenth of the time: `--help` reads a dozen files."""
MODULES = ("ask", "export", "serve")
"""Commands that are no script."""

WHOLE = ("defaults", "_target_")
"""Keys whose comment speaks of the whole file."""

HELP = "hydra.help."
"""Where a command's file says what the command does (`header`), and gives an example (`footer`)."""

HEAD = """# Config reference

Every key of the commands, from the comments of `conf/` and `experiments/`; \
`python -m lookright.config.manual` writes this page, and a test holds it current. A value shown is the default of its \
file; `???` has none and must be given. On the command line `backbone=tiny_ixc25` chooses a \
file of a group and `loss.alpha=0` sets a key; both sweep with `-m`."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Key:
    """One key with dots, its value as YAML writes it, and the comment above it."""

    path: str
    value: str
    comment: str


@dataclass(slots=True, frozen=True, kw_only=True)
class ConfigFile:
    """One YAML file; `comment` is what it says of itself, `bases` are files that it builds on.

    `choices` are the groups of its defaults list, each with its option and its comment. `is_global`: its keys are those
    of the whole config.
    """

    name: str
    comment: str
    bases: list[str]
    choices: dict[str, tuple[str, str]]
    keys: list[Key]
    is_global: bool = False

    @property
    def target(self) -> str | None:
        """The class or function that the file builds, None where it builds nothing itself."""
        return next((key.value for key in self.keys if key.path == "_target_"), None)


def read_file(path: Path) -> ConfigFile:
    """Read keys and comments of a config file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=LOADER) or MappingNode("", [])
    own = [line for key, _ in root.value if key.value in WHOLE for line in _comment(lines, key)]
    bases, choices = _defaults(root, lines)
    return ConfigFile(
        name=path.stem,
        comment=" ".join(line for line in own if not line.startswith("@package")),
        bases=bases,
        choices=choices,
        keys=[key for key in _keys(root, lines) if key.path.partition(".")[0] != "defaults"],
        is_global="@package _global_" in text.partition("\n")[0],
    )


def groups(folder: Path = CONFIG_FOLDER) -> dict[str, list[ConfigFile]]:
    """The files of every group by its name, `loss/kind` say; experiments are no group here."""
    found: dict[str, list[ConfigFile]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.parent.relative_to(folder).as_posix()
        if name != "." and name.partition("/")[0] != "experiment":
            found.setdefault(name, []).append(read_file(path))
    return dict(sorted(found.items()))


def page() -> str:
    """The whole page."""
    by_group = groups()
    parts = [HEAD, "## Commands"]
    for name, root in ROOTS.items():
        parts += _command(read_file(CONFIG_FOLDER / f"{name}.yaml"), root, by_group)
    parts.append("## Groups")
    for name, files in by_group.items():
        parts += [f"### {name}", *(part for file in files for part in _option(name, file))]
    parts += ["## Experiments", *_experiments(sorted(EXPERIMENT_FOLDER.glob("*.yaml")))]
    return "\n\n".join(parts) + "\n"


def _defaults(root: Node, lines: list[str]) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Files and groups of a defaults list; schemas, `_self_`, experiments and Hydra's own groups are left out."""
    entries: list[Any] = next((value.value for key, value in root.value if key.value == "defaults"), [])
    bases: list[str] = []
    choices: dict[str, tuple[str, str]] = {}
    for entry in entries:
        if isinstance(entry, ScalarNode):
            bases += [] if entry.value == "_self_" or entry.value.endswith("_schema") else [entry.value]
            continue
        ((group, option),) = entry.value
        if "hydra/" not in group.value and group.value != "experiment":
            names = [item.value for item in option.value] if isinstance(option, SequenceNode) else [option.value]
            name = group.value.removeprefix("override ").removeprefix("/")
            choices[name] = ", ".join(names), " ".join(_comment(lines, group))
    return bases, choices


def _keys(node: Node, lines: list[str], prefix: str = "") -> Iterator[Key]:
    """All keys below a mapping in their order; one that holds keys of its own has a line where it has a comment."""
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        comment = "" if path in WHOLE else " ".join(_comment(lines, key))
        nested = isinstance(value, MappingNode) and value.value and not value.flow_style
        if not nested:
            yield Key(path=path, value=_flow(value), comment=comment)
            continue
        if comment:
            yield Key(path=path, value="", comment=comment)
        yield from _keys(value, lines, f"{path}.")


def _comment(lines: list[str], key: ScalarNode) -> list[str]:
    """Lines of the comment right above a key, without their signs."""
    stop = start = key.start_mark.line
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return [line.strip().lstrip("#").strip() for line in lines[start:stop]]


def _flow(node: Node) -> str:
    """A value on one line, as YAML writes it inside brackets."""
    if isinstance(node, SequenceNode):
        return f"[{', '.join(_flow(item) for item in node.value)}]"
    if isinstance(node, MappingNode):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(value)}' for key, value in node.value)}}}"
    quoted = isinstance(node, ScalarNode) and node.style
    return f'"{node.value.strip()}"' if quoted or not node.value else str(node.value)


def _command(file: ConfigFile, root: type, by_group: Mapping[str, list[ConfigFile]]) -> Iterator[str]:
    yield f"### python -m lookright.{file.name}" if file.name in MODULES else f"### python {file.name}.py"
    told = {key.path.removeprefix(HELP): key.value.strip('"') for key in file.keys if key.path.startswith(HELP)}
    yield told["header"]
    yield f"```bash\n{told['footer']}\n```"
    rows = []
    for group, (option, _) in file.choices.items():
        names = ", ".join(_code(one.name) for one in by_group[group])
        rows.append(f"| [`{group}`](#{_anchor(group)}) | {_code(option)} | {names} |")
    yield "\n".join(["| group | default | files |", "|---|---|---|", *rows])
    known = {key.path.partition(".")[0] for key in file.keys} | set(file.choices)
    rest = [entry for entry in fields(root) if entry.name not in known]
    shown = [key for key in file.keys if not key.path.startswith(HELP.rstrip("."))]
    yield _table([*shown, *(key for entry in rest for key in _of_class(entry.name, _default(entry)))])


def _default(entry: Any) -> Any:
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _of_class(path: str, value: Any) -> Iterator[Key]:
    """Keys that no file writes down, from the defaults of the class that lists them."""
    if is_dataclass(value):
        for entry in fields(value):
            yield from _of_class(f"{path}.{entry.name}", getattr(value, entry.name))
        return
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True)
    yield Key(path=path, value=text.removesuffix("\n").removesuffix("\n..."), comment="")


def _option(group: str, file: ConfigFile) -> Iterator[str]:
    yield f"#### {group}={file.name}"
    words = [f"{file.comment[:1].upper()}{file.comment[1:]}."] if file.comment else []
    if file.target:
        words.append(f"Builds `{file.target}`.")
    if file.bases:
        words.append(f"Every key that is not listed is that of {', '.join(_code(base) for base in file.bases)}.")
    if file.is_global and file.choices:
        chosen = ", ".join(_code(f"{name}={option or '[]'}") for name, (option, _) in file.choices.items())
        words.append(f"Chooses {chosen}.")
    for name, (option, comment) in () if file.is_global else file.choices.items():
        default = f", default {_code(option)}" if option else ""
        words.append(f"Group `{group_below(group, name)}`{default}{f': {comment}' if comment else ''}.")
    if words:
        yield " ".join(words)
    prefix = "" if file.is_global else f"{group.replace('/', '.')}."
    keys = [key for key in file.keys if key.path != "_target_"]
    if keys:
        yield _table([replace(key, path=f"{prefix}{key.path}") for key in keys])


def group_below(group: str, name: str) -> str:
    """How a group of a file's own defaults list is chosen; one that is another's, `name@key`, by where it is put."""
    other, at, key = name.partition("@")
    return f"{other}@{group.replace('/', '.')}.{key}" if at else f"{group}/{name}"


def _experiments(paths: list[Path]) -> Iterator[str]:
    """The comment that opens each file, as it stands."""
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        header = lines[: next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))]
        text = [line.removeprefix("#").removeprefix(" ") for line in header if not line.startswith("# @package")]
        yield f"### experiment={path.stem}"
        yield "\n".join(["```text", *text, "```"])


def _table(keys: list[Key]) -> str:
    rows = [f"| `{key.path}` | {_code(key.value)} | {_prose(_cell(key.comment))} |" for key in keys]
    return "\n".join(["| key | value | |", "|---|---|---|", *rows])


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(text: str) -> str:
    """Text whose underscores at the edge of a word, and stars, set nothing in italics."""
    return re.sub(r"(?<!\w)_|_(?!\w)|\*", r"\\\g<0>", text)


def _anchor(heading: str) -> str:
    """What a heading is linked by."""
    return heading.lower().replace("/", "")


if __name__ == "__main__":
    if IN_CHECKOUT:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE}")
    else:
        print(page(), end="")
