"""Halves, trials and the choice, from answers made by hand."""

import random
from typing import Any

import pytest

from lookright.answering.adaptive_grid import AdaptiveGrid
from lookright.errors import ConfigError
from lookright.evaluation.adaptive_choice import choose, setting_text, split_in_halves, table
from lookright.evaluation.paired import mcnemar


def line(number: int, right: list[bool], confidence: float = 0.6, **facts: Any) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "format": "sequence",
        "source": "drawn",
        "source_picture": f"train/{number}",
        "confidence": confidence,
        "right": right,
        **facts,
    }


def grid(**lists: Any) -> AdaptiveGrid:
    return AdaptiveGrid(**{"thresholds": [0.5], "alpha_low": [1.0], "alpha_high": [3.0]} | lists)


def test_halves_keep_a_picture_together_and_do_not_know_the_order() -> None:
    lines = [line(number, [True], source_picture=f"train/{number // 3}") for number in range(60)]
    halves = split_in_halves(lines)
    pictures = [{lines[place]["source_picture"] for place in half} for half in halves]
    assert not pictures[0] & pictures[1] and len(halves[0]) == len(halves[1]) == 30
    shuffled = random.Random(0).sample(lines, len(lines))
    again = split_in_halves(shuffled)
    assert [{shuffled[place]["id"] for place in half} for half in again] == [
        {lines[place]["id"] for place in half} for half in halves
    ]
    assert {tuple(split_in_halves(lines, seed)[0]) for seed in range(3)} != {tuple(halves[0])}
    with pytest.raises(ConfigError, match="3 questions about 1 pictures"):
        split_in_halves(lines[:3])


def rights(wanted: list[bool], plain: list[bool]) -> tuple[AdaptiveGrid, list[dict[str, Any]]]:
    """Lines where the arm of factor 3 is as wanted, and every other arm wrong."""
    made = grid(alpha_low=[3.0])
    place = 1 + [arm.factor for arm in made.arms].index(3.0)
    rows = []
    for number, (one, before) in enumerate(zip(wanted, plain, strict=True)):
        row = [before, *(False for _ in made.arms)]
        row[place] = one
        rows.append(line(number, row))
    return made, rows


def test_a_gain_on_both_halves_is_taken() -> None:
    made, lines = rights([True] * 40, [number % 2 == 0 for number in range(40)])
    choice = choose(lines, made.settings, made.arms, significance=0.05)
    assert choice.helps and choice.best.setting.alpha_low == choice.best.setting.alpha_high == 3.0
    assert choice.best.choosing == choice.best.confirming == 100.0
    halves = split_in_halves(lines)
    for half, found in zip(halves, (choice.best.against_greedy, choice.best.confirmed), strict=True):
        gained = sum(not lines[place]["right"][0] for place in half)
        assert (found.gained, found.lost, found.p_value) == (gained, 0, mcnemar(gained, 0))
    assert choice.greedy.setting is None and choice.greedy.confirmed.gained == 0
    assert choice.published.choosing == 0.0
    rows = table(choice)
    assert rows[2].startswith("| `decode=greedy` | ") and rows[3].startswith("| `decode=adaptive` | ")
    assert "decode.alpha_low=3.0" in rows[4] and len(rows) == 2 + 3
    assert setting_text(choice.best.setting) == "decode=adaptive decode.alpha_low=3.0 decode.alpha_high=3.0"


def test_a_gain_where_it_was_chosen_alone_is_not_taken() -> None:
    plain = [number % 2 == 0 for number in range(40)]
    _, lines = rights([True] * 40, plain)
    first, second = split_in_halves(lines)
    made, lines = rights([number in first or plain[number] for number in range(40)], plain)
    choice = choose(lines, made.settings, made.arms, significance=1.0)
    assert choice.best.against_greedy.gained > 0 and choice.best.confirmed.gained == 0 and not choice.helps
    # nor is one that chance gives as often
    few = next(number for number in second if not plain[number])
    made, lines = rights([number in first or plain[number] or number == few for number in range(40)], plain)
    assert choose(lines, made.settings, made.arms, significance=0.05).best.confirmed.gained == 1
    assert not choose(lines, made.settings, made.arms, significance=0.05).helps


def test_equal_accuracy_goes_to_greedy() -> None:
    """Different questions, equal numbers in the half that chooses; all right in the other."""
    _, lines = rights([True] * 40, [False] * 40)
    first, _ = split_in_halves(lines)
    flags = {place: number % 2 == 0 for number, place in enumerate(first)}
    assert sum(flags.values()) * 2 == len(first)
    wanted = [flags.get(number, True) for number in range(40)]
    plain = [not flags[number] if number in flags else False for number in range(40)]
    made, lines = rights(wanted, plain)
    choice = choose(lines, made.settings, made.arms, significance=1.0)
    assert choice.best.choosing == choice.greedy.choosing and choice.best.confirmed.gained == 20
    assert not choice.helps


def scored(wanted: list[float], plain: list[float]) -> tuple[AdaptiveGrid, list[dict[str, Any]]]:
    """As `rights`, by a rule that gives parts; right from a half on."""
    made, lines = rights([score >= 0.5 for score in wanted], [score >= 0.5 for score in plain])
    place = 1 + [arm.factor for arm in made.arms].index(3.0)
    for one, score, before in zip(lines, wanted, plain, strict=True):
        one["scores"] = [before, *(0.0 for _ in made.arms)]
        one["scores"][place] = score
    return made, lines


def test_scores_of_a_rule_that_gives_parts_choose() -> None:
    """As right as greedy on every question, and nearer to the annotators on each."""
    plain, wanted = [0.6, 0.6, 0.6, 0.0] * 10, [0.9, 0.9, 0.9, 0.3] * 10
    made, lines = scored(wanted, plain)
    choice = choose(lines, made.settings, made.arms, significance=1.0)
    halves = split_in_halves(lines)
    for trial, scores in ((choice.greedy, plain), (choice.best, wanted)):
        means = [100 * sum(scores[place] for place in half) / len(half) for half in halves]
        assert [trial.choosing, trial.confirming] == pytest.approx(means, rel=1e-12)
    assert choice.best.setting.alpha_low == 3.0 and choice.best.choosing > choice.greedy.choosing
    # nothing is gained where something has to be right or wrong
    assert choice.best.confirmed.gained == 0 and not choice.helps


def test_equal_sums_of_scores_are_equal() -> None:
    """0.1 and 0.2 are 0.3 as fractions, and 0.30000000000000004 as floats."""
    _, lines = scored([0.0] * 4, [0.0] * 4)
    first, _ = split_in_halves(lines)
    plain, wanted = [0.0] * 4, [0.0] * 4
    plain[first[0]], plain[first[1]], wanted[first[0]] = 0.1, 0.2, 0.3
    made, lines = scored(wanted, plain)
    choice = choose(lines, made.settings, made.arms, significance=1.0)
    assert choice.best.setting.alpha_low == 3.0
    assert choice.best.choosing == choice.greedy.choosing == 15.0


def test_accuracy_is_the_mean_over_formats() -> None:
    formats = ["sequence"] * 30 + ["grid_collage"] * 10
    made = grid()
    lines = [
        line(number, [number >= 30, *(False for _ in made.arms)], format=name) for number, name in enumerate(formats)
    ]
    choice = choose(lines, made.settings, made.arms, significance=0.05)
    # no sequence and every collage is right, however many there are of each
    assert choice.greedy.choosing == choice.greedy.confirming == 50.0
