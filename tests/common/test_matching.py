"""Whose answer a prediction gives. What counts as correct is held in `evaluation/test_metrics_matching.py`."""

import pytest

from lookright.common.matching import says_another


@pytest.mark.parametrize(
    ("prediction", "others", "wanted"),
    [
        ("blue square", ["green circle", "Blue square."], True),
        ("It is a blue square.", ["blue square"], True),
        ("blue square", ["green circle"], False),
        ("blue square", [], False),
        ("red circle", ["The red circle"], False),  # another image with the same answer tells nothing
        ("red circle and blue square", ["blue square"], False),
        ("no blue square", ["blue square"], False),
    ],
)
def test_says_another(prediction: str, others: list[str], wanted: bool) -> None:
    assert says_another(prediction, "red circle", others) is wanted


def test_yes_and_no_are_decided_by_the_first_word() -> None:
    assert says_another("no, it is red", "yes", ["no"]) and not says_another("yes, no doubt", "yes", ["no"])
