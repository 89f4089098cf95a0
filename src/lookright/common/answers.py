"""Comparing short answers as text: normal form, equality, distance, length. No model, no tokenizer."""

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


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance in characters.

    Source: G. Myers, J. ACM 46(3), 1999, in the form of H. Hyyrö, 2003: a column of the distance table is
    two bit vectors, here Python's own integers, so an answer of 512 characters takes 512 steps.
    """
    if not one or not other:
        return len(one) + len(other)
    full, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    where: dict[str, int] = {}
    for index, character in enumerate(one):
        where[character] = where.get(character, 0) | 1 << index
    rises, falls, distance = full, 0, len(one)
    for character in other:
        match = where.get(character, 0)
        diagonal = (((match & rises) + rises) ^ rises) | match | falls
        across_rises = falls | ~(diagonal | rises)
        across_falls = rises & diagonal
        distance += bool(across_rises & last) - bool(across_falls & last)
        across_rises = (across_rises << 1 | 1) & full
        rises = ((across_falls << 1) | ~(diagonal | across_rises)) & full
        falls = across_rises & diagonal
    return distance


def normalized_edit_distance(one: str, other: str) -> float:
    """Edit distance over the longer one's characters: 0 for equal texts, 1 where nothing is shared."""
    longer = max(len(one), len(other))
    return edit_distance(one, other) / longer if longer else 0.0
