"""The demo's command lines: they compose, keep the splits apart and ask enough questions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.config.check import check_config
from lookright.demo import commands
from lookright.demo.lanes import run_command
from lookright.errors import LookRightError

FOLDER = Path("outputs/demo")
ALL = [
    *(commands.generate(source, "tiny_llava", FOLDER) for source in commands.SOURCES),
    *(commands.test_set(source, FOLDER) for source in commands.SOURCES),
    commands.train("tiny_llava", FOLDER),
    commands.infer("base", "tiny_llava", FOLDER),
    commands.infer("tuned", "tiny_llava", FOLDER),
]


@pytest.mark.parametrize("command", ALL, ids=lambda command: " ".join(command[:3]))
def test_command_composes(command: list[str], composed: Callable[..., DictConfig]) -> None:
    check_config(composed(command[0].removesuffix(".py"), *command[1:]))


def test_questions_are_of_the_test_split_and_pairs_of_the_training_split(composed: Callable[..., DictConfig]) -> None:
    for source in commands.SOURCES:
        assert composed("generate", *commands.test_set(source, FOLDER)[1:]).split == "test"
        assert composed("generate", *commands.generate(source, "tiny_llava", FOLDER)[1:]).split == "train"


def test_at_least_400_questions_a_format() -> None:
    counts = {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", commands.TEST_PROMPTS)}
    assert set(counts) == {"sequence", "grid_collage", "pic_in_pic", "single_image"}
    assert min(counts.values()) * len(commands.SOURCES) >= 400


def test_a_command_that_fails_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(LookRightError, match="stage='nothing'"):
        run_command(["generate.py", "stage=nothing", f"output={tmp_path / 'out'}"], tmp_path / "logs")
