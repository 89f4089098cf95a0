"""Which settings a grid holds, how many answers it needs, and which answer a setting takes."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from lookright.answering.adaptive_grid import PUBLISHED, AdaptiveGrid, told_of_setting


def grid(**lists: Any) -> AdaptiveGrid:
    return AdaptiveGrid(**{"thresholds": [0.5], "alpha_low": [1.0], "alpha_high": [3.0]} | lists)


def test_a_grid_needs_an_answer_for_each_distinct_factor() -> None:
    """Thresholds cost nothing, a factor of 1 is plain, and one factor for all has no threshold."""
    made = grid(thresholds=[0.3, 0.5, 0.7], alpha_low=[0.7, 1.0, 2.0], alpha_high=[1.0, 2.0], steps=["first", "every"])
    assert {(arm.factor, arm.steps) for arm in made.arms} == {(f, s) for f in (0.7, 2.0) for s in ("first", "every")}
    # (0.7, 1), (0.7, 2), (1, 2), (2, 1) under three thresholds, (2, 2) under one, (1, 1) not at all; twice
    assert len(made.settings) == 2 * (4 * 3 + 1)
    assert len(set(made.settings)) == len(made.settings)
    # the published values come along where the lists leave them out
    assert [one.options() for one in grid().settings][0] == PUBLISHED and len(grid().settings) == 2
    both = grid(scopes=["all", "target"]).settings
    assert [one.options() for one in both][:2] == [PUBLISHED, PUBLISHED | {"scope": "target"}] and len(both) == 4


def test_the_published_values_are_those_of_the_config(composed: Callable[..., DictConfig]) -> None:
    decode = composed("infer", "decode=adaptive").decode
    assert {key: decode[key] for key in PUBLISHED} == PUBLISHED


def test_the_threshold_chooses_between_the_arms() -> None:
    made = grid(alpha_low=[0.7], thresholds=[0.5])
    (setting,) = [one for one in made.settings if one.alpha_high == 3.0]
    columns = {arm.factor: place for place, arm in enumerate(made.arms, 1)}
    low, high = columns[0.7], columns[3.0]
    rows = [[place == wanted for place in range(len(made.arms) + 1)] for wanted in (low, high, low, high)]
    # at the threshold a prompt is sure
    assert told_of_setting(setting, made.arms, [0.2, 0.2, 0.5, 0.5], rows) == [True, False, False, True]
    sure_alone = next(one for one in grid().settings if one.alpha_low == 1.0)
    arms = grid().arms
    place = 1 + [arm.factor for arm in arms].index(3.0)
    plain_right = [True, *(False for _ in arms)]
    assert told_of_setting(sure_alone, arms, [0.2, 0.9], [plain_right, plain_right]) == [True, False]
    scaled_right = [number == place for number in range(len(arms) + 1)]
    assert told_of_setting(sure_alone, arms, [0.2, 0.9], [scaled_right, scaled_right]) == [False, True]
