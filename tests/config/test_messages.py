"""Error messages name only keys that the configs have."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import GenerateConfig, InferConfig, TrainConfig, TuneAdaptiveConfig

PACKAGE = CONFIG_FOLDER.parent / "src" / "lookright"
MODULES = sorted(PACKAGE.rglob("*.py"))
KEY = re.compile(r"(?<![\w./*-])[a-z_]+(?:\.[a-z_*]+)+(?![\w*(/-]|\.\w)")
"""A dotted name; `*` stands for what an f-string fills in."""
FILES = ("md", "jsonl", "json", "yaml", "csv", "html", "py", "png", "jpg", "safetensors", "model", "parquet")
OPEN = {
    "num_prompts.*",
    "metrics.accuracy.rules.*",
    "adapters.*",
    "loss.kind",
    "logger._target_",
    "hydra.searchpath",
    "hydra.launcher",
    "noise.std",
    "vision_config.image_size",
    "hydra.job.num",
    "hydra.job.id",
    "hydra.mode",
}
"""Below keys that take a mapping of the user's own, keys of a model's `config.json`, a group, and Hydra's own."""


def flatten(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys below a node, inner ones and leaves."""
    for name in node:
        path = f"{prefix}{name}"
        yield path
        child = None if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name) else node[name]
        if OmegaConf.is_dict(child):
            yield from flatten(child, f"{path}.")


@lru_cache
def known_keys() -> frozenset[str]:
    """Keys of the three roots and of every option of every group."""
    keys = set()
    for root in (GenerateConfig, TrainConfig, InferConfig, TuneAdaptiveConfig):
        keys |= set(flatten(OmegaConf.structured(root)))
    for path in CONFIG_FOLDER.rglob("*.yaml"):
        place = path.relative_to(CONFIG_FOLDER).parent.parts
        loaded = OmegaConf.load(path)
        if "defaults" in loaded:
            loaded = OmegaConf.masked_copy(loaded, [name for name in loaded if name != "defaults"])
        keys |= set(flatten(loaded, "".join(f"{part}." for part in place)))
    return frozenset(keys)


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring, filled-in parts as `*`."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def unknown(text: str) -> list[str]:
    """Names in a text that read like keys, by what follows them or by their first part, and that no config has."""
    roots = {key.partition(".")[0] for key in known_keys()}
    wrong = []
    for found in KEY.finditer(text):
        name, ending = found[0], found[0].rsplit(".", 1)[1]
        is_key = text[found.end() :].startswith("=") or name.partition(".")[0] in roots
        if is_key and ending not in FILES and not any(fnmatchcase(key, name) for key in known_keys() | OPEN):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_keys_in_messages_exist(path: Path) -> None:
    wrong = [
        (line, name) for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))) for name in unknown(text)
    ]
    assert not wrong, f"{path.name}: {wrong}"


def test_a_key_that_is_nowhere_is_found() -> None:
    assert unknown("formats.grid_collage.margin=3: labels need 8") == ["formats.grid_collage.margin"]
    assert unknown("length_ratio.minimum=0.5") == ["length_ratio.minimum"]
    assert unknown("set companions.within=split, or companions.nowhere") == ["companions.nowhere"]
    assert unknown("composers.*.mixture[3]=-1, filters.length_ratio.minimum, data.jsonl, torch.nn") == []
    lines = ["def f():", '    """source.nothing is a docstring."""', '    raise E(f"composers.{a}.margins={b}")']
    found = [name for _, text in texts(ast.parse("\n".join(lines))) for name in unknown(text)]
    assert found == ["composers.*.margins"]
