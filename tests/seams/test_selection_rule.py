"""A selection rule and a filter from outside the package: one class and one YAML each."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.commands.generate import generate
from lookright.common.answers import same_answer
from lookright.errors import ConfigError
from tests.seams.conftest import Outside

MODULE = '''
from lookright.errors import RecordError
from lookright.selection.base import Candidate, Selection


class Unsure(Selection):
    """Takes answers of high perplexity; `threshold` is a number, not a rule of formats."""

    reasons = ("too_sure",)

    def __init__(self, threshold: float):
        self.threshold = threshold

    def keeps(self, candidate: Candidate) -> bool:
        return candidate.perplexity > self.threshold


class AboveMean(Selection):
    """Takes answers of more than the mean perplexity, which a first pass finds."""

    needs_prepare = True

    def __init__(self):
        self.seen = []

    def see(self, candidate):
        self.seen.append(candidate.perplexity)

    def keeps(self, candidate):
        return candidate.perplexity > sum(self.seen) / len(self.seen)


class NoVowel:
    """A filter: the share of vowels in the rejected answer."""

    reason = "vowels"

    def score(self, candidate):
        text = candidate.rejected
        return sum(letter in "aeiou" for letter in text) / max(len(text), 1)

    def keeps(self, score):
        return score < 0.5


class NoRule:
    pass
'''
CONFIGS = {
    "selection/unsure.yaml": "_target_: from_outside.Unsure\nthreshold: 1.0\n",
    "selection/above_mean.yaml": "_target_: from_outside.AboveMean\n",
    "filters/vowels.yaml": "vowels:\n  _target_: from_outside.NoVowel\n",
}
NOT_FILTERED = ["filters.perplexity=null", "filters.length_ratio=null", "filters.edit_distance=null"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


def wrong_answers(folder: Path) -> dict[str, dict]:
    truth = {line["id"]: line["ground_truth"] for line in lines_of(folder / "instructions.jsonl")}
    found = {line["id"]: line for line in lines_of(folder / "answers.jsonl")}
    return {key: line for key, line in found.items() if not same_answer(line["prediction"], truth[key])}


def test_a_rule_decides(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str], tmp_path: Path
) -> None:
    folder = outside(MODULE, CONFIGS)
    generate(searching("generate", folder, *generating, *NOT_FILTERED, "selection=none"))
    wrong = wrong_answers(tmp_path / "out")
    limit = sorted(line["perplexity"] for line in wrong.values())[len(wrong) // 2]
    chosen = ["selection=unsure", f"selection.threshold={limit}", "overwrite=true"]
    summary = generate(searching("generate", folder, *generating, *NOT_FILTERED, *chosen))
    kept = {line["id"] for line in lines_of(tmp_path / "out" / "preferences.jsonl")}
    assert kept == {key for key, line in wrong.items() if line["perplexity"] > limit} and kept
    assert summary["dropped"]["too_sure"] == len(wrong) - len(kept)
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"<th[^>]*>Too sure</th>", page)


def test_a_rule_with_a_first_pass_and_a_filter(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str], tmp_path: Path
) -> None:
    folder = outside(MODULE, CONFIGS)
    chosen = [*NOT_FILTERED, "selection=above_mean", "+filters=vowels"]
    generate(searching("generate", folder, *generating, *chosen))
    wrong = wrong_answers(tmp_path / "out")

    def vowels(line: dict) -> float:
        text = line["prediction"]
        return sum(letter in "aeiou" for letter in text) / max(len(text), 1)

    eligible = {key: line["perplexity"] for key, line in wrong.items() if vowels(line) < 0.5}
    mean = sum(eligible.values()) / len(eligible)
    pairs = lines_of(tmp_path / "out" / "preferences.jsonl")
    assert {line["id"] for line in pairs} == {key for key, value in eligible.items() if value > mean}
    assert pairs and all(line["scores"]["vowels"] < 0.5 for line in pairs)


def test_what_is_no_rule_is_told(outside: Outside, searching: Callable[..., DictConfig], generating: list[str]) -> None:
    folder = outside(MODULE, {"selection/none_at_all.yaml": "_target_: from_outside.NoRule\n"})
    with pytest.raises(ConfigError, match=r"selection\._target_=from_outside\.NoRule is no lookright\.selection\.base"):
        generate(searching("generate", folder, *generating, "selection=none_at_all"))
