"""The page of all config keys: current, complete, and what it says of a file is what the file says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config.folders import EXPERIMENT_FOLDER
from lookright.config.manual import PAGE, ROOTS, groups, page, read_file

TEXT = """# @package _global_
# what the whole file
# is about
defaults:
  - base
  # which parts there are
  - part: small
  - override /trainer: gpu
  - _self_
  - some_schema

_target_: package.module.Class
# in nats, > 0
# or null
beta: null
seed: ${seed}
# no comment of the key below

plain: "a | b"
rates: {2: 0.8, 3: 0.7}
names: [one, "two"]
# of both
nested:
  # of one
  inner: 1.0
  list:
    - _target_: package.Item
      count: 2
"""


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m lookright.config.manual"


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "name.yaml"
    path.write_text(TEXT)
    file = read_file(path)
    assert (file.name, file.comment) == ("name", "what the whole file is about")
    assert (file.target, file.bases, file.is_global) == ("package.module.Class", ["base"], True)
    assert file.choices == {"part": ("small", "which parts there are"), "trainer": ("gpu", "")}
    assert [(key.path, key.value, key.comment) for key in file.keys] == [
        ("_target_", "package.module.Class", ""),
        ("beta", "null", "in nats, > 0 or null"),
        ("seed", "${seed}", ""),
        ("plain", '"a | b"', ""),
        ("rates", "{2: 0.8, 3: 0.7}", ""),
        ("names", '[one, "two"]', ""),
        ("nested", "", "of both"),
        ("nested.inner", "1.0", "of one"),
        ("nested.list", "[{_target_: package.Item, count: 2}]", ""),
    ]


@pytest.mark.parametrize("command", sorted(ROOTS))
def test_every_key_that_can_be_set_is_there(command: str, composed: Callable[..., DictConfig]) -> None:
    """What the command composes by itself, against the rows of its own part and of its groups."""
    text = page()
    rows = {row[1]: row[2] for row in re.finditer(r"^\| `([\w./]+)` \| (.*?) \|", text, flags=re.MULTILINE)}
    config = OmegaConf.to_container(composed(command), resolve=False)
    # a group of which nothing is chosen has a row that leads to its files
    linked = re.findall(r"^\| \[`([\w/]+)`\]", text, flags=re.MULTILINE)
    missing = [path for path in _leaves(config) if not any(_covers(path, row) for row in (*rows, *linked))]
    assert not missing
    assert len(rows) > 150


def _leaves(config: dict, prefix: str = "") -> list[str]:
    return [
        path
        for key, value in config.items()
        for path in (_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"])
        # the class of a group is said in words; what fills a list of files is theirs
        if key != "_target_"
    ]


def _covers(path: str, row: str) -> bool:
    """A row is of the key, or of a mapping that stands on one line with all that it holds."""
    return path == row or path.startswith(f"{row}.")


def test_every_file_and_every_comment_is_there() -> None:
    text = page()
    for group, files in groups().items():
        for file in files:
            assert f"\n#### {group}={file.name}\n" in text
    plain = text.replace("\\", "")
    for file in (file for files in groups().values() for file in files):
        for key in file.keys:
            assert key.comment in plain
    for path in EXPERIMENT_FOLDER.glob("*.yaml"):
        assert f"\n### experiment={path.stem}\n" in text


def test_links_lead_to_headings() -> None:
    text = page()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    links = set(re.findall(r"\(#([^)]*)\)", text))
    assert links and links <= headings
