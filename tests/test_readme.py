"""Every command of the README composes into a config that holds no unknown key, and the page keeps its promises."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.config.check import check_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python (\w+)\.py(.*)$", README, flags=re.MULTILINE)


def test_the_readme_has_commands_and_is_short() -> None:
    assert len(COMMANDS) >= 8
    assert len(README.split()) < 1500


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_command(command: str, arguments: str, composed: Callable[..., DictConfig]) -> None:
    overrides = [part for part in shlex.split(arguments) if part != "-m"]
    # of a sweep, the first job
    first = [re.sub(r"=([^\[{,]*),.*", r"=\1", override) for override in overrides]
    if any(override.startswith("resume=") for override in first):
        first.append("data.path=taken_from_the_run")
    config = composed(command, *first)
    if config.output is None or str(config.output) == "???":
        config.output = "outputs/test"
    check_config(config)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_values_of_the_table_are_files() -> None:
    for group in (
        "backbone",
        "source",
        "companions",
        "reference",
        "tuning",
        "decode",
        "logger",
        "selection",
        "callbacks",
        "debug",
    ):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}`"))
        for value in re.findall(r"`(\w+)`", row.split("|")[2]):
            assert (ROOT / "conf" / group / f"{value}.yaml").is_file(), (group, value)
