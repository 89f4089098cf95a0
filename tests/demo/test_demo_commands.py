"""The demo's command lines: they compose, keep the splits apart and ask enough questions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.config.check import check_config
from lookright.demo import commands
from lookright.demo.__main__ import share_answers
from lookright.demo.lanes import run_chains
from lookright.errors import LookRightError

FOLDER = Path("outputs/demo")
ALL = [
    *(commands.generate(source, "tiny_llava", FOLDER) for source in commands.SOURCES),
    *(commands.test_set(source, FOLDER) for source in commands.SOURCES),
    *(commands.draw_at_random(source, "tiny_llava", FOLDER) for source in commands.SOURCES),
    *(commands.train(tuning, "tiny_llava", FOLDER, seed=2) for tuning in (commands.TUNED, *commands.CONTROLS)),
    commands.infer("base", "tiny_llava", FOLDER),
    commands.infer("tuned", "tiny_llava", FOLDER, seed=2),
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
        run_chains([[["generate.py", "stage=nothing", f"output={tmp_path / 'out'}"]]], tmp_path / "logs")


def test_controls_differ_from_the_recipe_in_one_thing(composed: Callable[..., DictConfig]) -> None:
    recipe, *others = (
        composed("train", *commands.train(tuning, "tiny_llava", FOLDER)[1:])
        for tuning in (commands.TUNED, *commands.CONTROLS)
    )
    found = {}
    for tuning, config in zip(commands.CONTROLS, others, strict=True):
        weights = (config.loss.alpha == 0, config.loss.gamma == 0, config.loss.attention.weight == 0)
        found[tuning.name] = (weights, config.data.path == recipe.data.path)
        assert all(config[key] == recipe[key] for key in ("optimizer", "schedule", "tuning", "trainer"))
    assert found == {
        "sft": ((True, False, True), True),
        "no_attention": ((False, False, True), True),
        "no_preference": ((True, False, False), True),
        "random_pairs": ((False, False, False), False),
    }


def test_a_random_draw_takes_the_same_answers(tmp_path: Path) -> None:
    """The folder is a copy in which pictures take no place of their own, and selection is all that runs there."""
    source, copy = tmp_path / "pairs", tmp_path / "random_pairs"
    (source / "images").mkdir(parents=True)
    (source / "images" / "0.png").write_bytes(b"picture")
    for name in ("instructions.jsonl", "answers.jsonl", "skipped.jsonl", "source.json", "config.yaml"):
        (source / name).write_text(name)
    (source / "preferences.jsonl").write_text("selected by attention")
    share_answers(source, copy)
    assert (copy / "images" / "0.png").stat().st_ino == (source / "images" / "0.png").stat().st_ino
    assert (copy / "answers.jsonl").read_text() == "answers.jsonl" and not (copy / "preferences.jsonl").exists()
    command = commands.draw_at_random("easy_vqa", "tiny_llava", tmp_path)
    assert {"stage=select", "selection=random", f"output={tmp_path / 'random_pairs' / 'easy_vqa'}"} <= set(command)
