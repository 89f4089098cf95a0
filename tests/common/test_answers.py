"""Comparing answers as text."""

import pytest

from lookright.common.answers import normal_words, same_answer


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
