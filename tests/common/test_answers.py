"""Comparing answers as text."""

import random

import pytest

from lookright.common.answers import edit_distance, normal_words, normalized_edit_distance, same_answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("circle", "Circle."),
        ("a circle", "The circle!"),
        ("  dark   blue ", "dark blue"),
        ("T-shirt/top", "t-shirt/top"),
        ("three", "3"),
        ("A", "a."),
        ("Ｂａｇ", "bag"),
        ("It\u2019s red", "it's red"),
        ("?", " ? "),
    ],
)
def test_same(one: str, other: str) -> None:
    assert same_answer(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("circle", "circles"), ("yes", "no"), ("red", "dark red"), ("?", "!"), ("", "a"), ("A", "B"), ("1.5", "15")],
)
def test_not_same(one: str, other: str) -> None:
    assert not same_answer(one, other)


def test_an_article_stays_where_it_is_the_answer() -> None:
    assert normal_words("The A") == ["the", "a"]
    assert normal_words("a cat") == ["cat"]


def table_distance(one: str, other: str) -> int:
    """The textbook table."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def test_edit_distance_by_hand() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("same", "same") == 0
    assert normalized_edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
    assert normalized_edit_distance("", "") == 0.0


def test_edit_distance_equals_the_table() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices("abcé ", k=rng.randint(0, 90))) for _ in range(2))
        assert edit_distance(one, other) == table_distance(one, other), (one, other)
