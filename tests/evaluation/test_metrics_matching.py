"""Which free-form predictions count as the ground truth, and what kind of error the others are."""

import pytest

from lookright.common.matching import is_correct
from lookright.evaluation.error_kinds import error_kind


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("circle", "circle"),
        ("A Circle.", "circle"),
        ("It is a circle", "circle"),
        ("The shape in Image2 is a red circle, on blue.", "red circle"),
        ("It is not a square but a circle.", "circle"),
        ("No, it is a circle.", "circle"),
        ("yes", "Yes"),
        ("Yes, it is not red.", "yes"),
        ("no, there is not", "no"),
        ("There are three of them", "3"),
        ("This is a T-shirt/top.", "T-shirt/top"),
        ("The picture shows ankle boots and an ankle boot", "Ankle boot"),
        ("Option A", "option A"),
    ],
)
def test_right(prediction: str, answer: str) -> None:
    assert is_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("not a circle", "circle"),
        ("It isn't a circle.", "circle"),
        ("there is no circle here", "circle"),
        ("circle or square", "circle"),
        ("either circle", "circle"),
        ("semicircle", "circle"),
        ("circles", "circle"),
        ("red and a circle", "red circle"),
        ("yes", "no"),
        ("There is no doubt: yes", "no"),
        ("It is, yes", "yes"),
        ("nothing", "no"),
        ("", "circle"),
        ("A circle", "A"),
        ("boot", "ankle boot"),
    ],
)
def test_wrong(prediction: str, answer: str) -> None:
    assert not is_correct(prediction, answer)


def test_an_answer_that_also_affirms_another_is_wrong() -> None:
    assert is_correct("a circle and a square", "circle")
    assert not is_correct("a circle and a square", "circle", others=["square", "triangle"])
    assert is_correct("a circle, not a square", "circle", others=["square"])
    # The other answer is a part of this one, or the same in other words.
    assert is_correct("it is dark red", "dark red", others=["red"])
    assert is_correct("it is a circle", "circle", others=["Circle.", "the circle"])


@pytest.mark.parametrize(
    ("prediction", "answer", "companions", "kind"),
    [
        ("square", "circle", ["square", "triangle"], "sequence_confusion"),
        ("It is a square.", "circle", ["triangle", "square"], "sequence_confusion"),
        ("no", "yes", ["no"], "sequence_confusion"),
        ("red square", "red circle", ["blue square"], "element_interference"),
        ("circle and square", "circle", ["square"], "element_interference"),
        ("circle or square", "circle", ["square"], "element_interference"),
        ("green", "circle", ["square"], "other"),
        ("square", "circle", ["circle", None], "other"),
        ("square", "circle", [None, None], None),
        ("square", "circle", [], None),
    ],
)
def test_kinds(prediction: str, answer: str, companions: list[str | None], kind: str | None) -> None:
    assert error_kind(prediction, answer, companions) == kind


def test_facts_of_a_companion() -> None:
    facts = {"companion_facts": ["blue", "square"], "target_facts": ["red", "circle"]}
    assert error_kind("blue", "circle", [None], **facts) == "element_interference"
    assert error_kind("red", "circle", [None], **facts) == "other"
