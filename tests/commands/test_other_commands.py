"""A folder that holds the run of one command is no output of another: its config would be lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.commands.tune_adaptive import tune_adaptive
from lookright.config.runs import CONFIG_FILE
from lookright.errors import ConfigError
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question

ROOTS = {
    "train.py": "trainer: {max_steps: 2}",
    "generate.py": "source: {_target_: lookright.composing.sources.easy_vqa.EasyVqa}",
    "infer.py": "overlays: 3",
    "tune_adaptive.py": "grid: {}",
    "another program": "database: x",
}
"""Whose config it is, by a part of it."""
COMMANDS: dict[str, Callable[[DictConfig], Any]] = {
    "train": train,
    "generate": generate,
    "infer": infer,
    "tune_adaptive": tune_adaptive,
}


@pytest.fixture(scope="module")
def given(small_run: list[str], settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each command is called with, beside `output`."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(3)])
    asked = [f"data.path={folder / 'instructions.jsonl'}"]
    return {
        "train": small_run,
        "generate": [*settings, "stage=compose"],
        "infer": [*asked, "decode.max_new_tokens=2"],
        "tune_adaptive": [*asked, "grid.max_new_tokens=2"],
    }


@pytest.mark.parametrize(
    ("name", "owner"), [(name, owner) for name in COMMANDS for owner in ROOTS if owner != f"{name}.py"]
)
def test_no_command_writes_over_the_run_of_another(
    name: str, owner: str, given: dict[str, list[str]], composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    (tmp_path / CONFIG_FILE).write_text(ROOTS[owner] + "\n")
    with pytest.raises(ConfigError, match=f"output={tmp_path} holds a run of {owner}, not of {name}.py; set another"):
        COMMANDS[name](composed(name, *given[name], f"output={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_FILE]
    assert (tmp_path / CONFIG_FILE).read_text() == ROOTS[owner] + "\n"


def test_what_is_repeated_is_a_run_of_the_same_command(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / CONFIG_FILE).write_text(ROOTS["generate.py"])
    with pytest.raises(ConfigError, match="pairs holds a run of generate.py, not of train.py; set another repeat"):
        train(composed("train", "data.path=x", f"repeat={tmp_path / 'pairs'}", f"output={tmp_path / 'out'}"))
