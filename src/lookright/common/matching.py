"""Whether a free-form prediction says the ground truth."""

import re
from collections.abc import Sequence

from lookright.common.answers import normal_words, same_answer

NEGATIONS = frozenset({"no", "not", "never", "neither", "nor", "without", "cannot", "none", "isn't", "aren't", "wasn't",
                       "weren't", "doesn't", "don't", "didn't", "can't", "isnt", "doesnt"})  # fmt: skip
CHOICES = frozenset({"or", "either"})
_CLAUSE_END = re.compile(r"[.,;:!?]+(?=\s|$)|\bbut\b|\n", re.IGNORECASE)


def is_correct(prediction: str, answer: str, others: Sequence[str] = ()) -> bool:
    """Whether `prediction` gives `answer`; strict where in doubt.

    In this order: (1) equal in normal form (`answers.same_answer`); (2) a yes/no answer is decided by the
    prediction's first word alone; (3) otherwise the answer must stand in a longer prediction as whole
    words in a row, in a clause (up to a punctuation mark or "but") where no negation comes before it and
    no "or" leaves the choice open, and the prediction must not affirm any of `others`, the answers that
    would be wrong here (those of the other images shown). "not a circle" and "circle or square" are
    not "circle"; "It is not a square but a circle." is.
    """
    if same_answer(prediction, answer):
        return True
    wanted, said = normal_words(answer), normal_words(prediction)
    if wanted in (["yes"], ["no"]):
        return said[:1] == wanted
    wrong = [other for other in others if not same_answer(other, answer)]
    return affirms(prediction, answer) and not any(
        affirms(prediction, other) for other in wrong if not _within(other, answer)
    )


def says_another(prediction: str, answer: str, others: Sequence[str]) -> bool:
    """Whether `prediction` gives, by the same rule, one of `others` that differs from `answer`."""
    return any(is_correct(prediction, other, [answer]) for other in others if not same_answer(other, answer))


def affirms(prediction: str, answer: str) -> bool:
    """Whether some clause has the answer's words in a row, not negated and not as one of several choices."""
    wanted = normal_words(answer)
    return bool(wanted) and any(
        _clause_affirms(normal_words(clause), wanted) for clause in _CLAUSE_END.split(prediction)
    )


def find_run(words: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where `wanted` stands in a row in `words`, or None."""
    starts = range(len(words) - len(wanted) + 1)
    return next((start for start in starts if list(words[start : start + len(wanted)]) == list(wanted)), None)


def _clause_affirms(clause: Sequence[str], wanted: Sequence[str]) -> bool:
    start = find_run(clause, wanted)
    if start is None:
        return False
    around = [*clause[:start], *clause[start + len(wanted) :]]
    return NEGATIONS.isdisjoint(clause[:start]) and CHOICES.isdisjoint(around)


def _within(other: str, answer: str) -> bool:
    """Whether the other answer is part of this one ("red" of "dark red"): saying one says both."""
    return find_run(normal_words(answer), normal_words(other)) is not None
