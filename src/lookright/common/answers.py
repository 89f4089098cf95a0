"""Comparing short answers as text: normal form, equality, length. No model, no tokenizer."""

import re
import unicodedata

ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_WORD = re.compile(r"\w+(?:[-'/]\w+|\.\d+)*")


def words(text: str) -> list[str]:
    """Whitespace-separated words: the unit of lengths, the same whatever the backbone's tokens are."""
    return text.split()


def normal_words(text: str) -> list[str]:
    """Words in normal form: compatibility characters and case folded, number words as digits, no articles.

    Punctuation goes except inside a word (`t-shirt/top`, `3.5`). An article stays where nothing else would
    be left, so that the option "A" of a multiple-choice question keeps its letter.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    found = [NUMBER_WORDS.get(word, word) for word in _WORD.findall(folded)]
    return [word for word in found if word not in ARTICLES] or found


def same_answer(one: str, other: str) -> bool:
    """Whether two answers differ in no more than case, articles, punctuation, spacing and number words.

    Answers without any word (only signs) are compared as they are, spaces around them aside.
    """
    return answer_key(one) == answer_key(other)


def answer_key(text: str) -> tuple[str, ...]:
    """Return what two texts share that are the same answer, see `same_answer`."""
    return tuple(normal_words(text)) or ("", text.strip())
