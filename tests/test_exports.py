"""What the package exports on purpose, and that nothing loads before it is used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lookright

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", lookright.__all__)
def test_every_name_is_the_object_at_its_home(name: str) -> None:
    assert getattr(lookright, name) is getattr(import_module(getattr(lookright, name).__module__), name)
    assert name in dir(lookright)


def test_tools_that_read_the_source_see_the_same_names() -> None:
    tree = ast.parse(Path(lookright.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == lookright._HOME_OF
    assert lookright.__all__ == sorted(seen)


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'laod'; it has .*load"):
        _ = lookright.laod


def test_the_page_lists_what_there_is() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").split("## What there is")[1]
    listed = set(text.split("`")[1::2])
    assert listed == set(lookright.__all__)


def test_importing_is_light_and_a_name_loads_its_own_part() -> None:
    code = (
        "import sys, lookright\n"
        "heavy = ('torch', 'transformers', 'hydra', 'PIL', 'peft', 'lightning')\n"
        "assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)\n"
        "lookright.Region, lookright.ConfigError\n"
        "assert not set(heavy) & set(sys.modules)\n"
        "lookright.DPOLoss\n"
        "assert not {'transformers', 'lightning', 'peft'} & set(sys.modules)\n"
        "lookright.load\n"
        "assert 'lookright.commands' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
