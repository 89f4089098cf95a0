"""Multiple choice: which options a question has, and which of them a free-form prediction names."""

import re
import string
from collections.abc import Sequence

from lookright.common.answers import normal_words, same_answer
from lookright.common.matching import affirms, find_run
from lookright.types import Prompt

LETTERS = string.ascii_uppercase
UNKNOWN = LETTERS[:8]
"""Letters that may be meant where the options are not known."""
_LABEL = re.compile(r"(?<![\w(])(?:\(([A-Z])\)|([A-Z])[.):])(?=\s)")
_AROUND = " \t\n\r*_`\"'"


def options_of(prompt: Prompt) -> list[str]:
    """Return the options of a question in order: those of the record, else those in its text; empty for none."""
    given = prompt.provenance.get("options")
    if not given:
        return parse_options(prompt.prompt)
    return [_LABEL.sub("", f"{option} ", count=1).strip() if _is_labelled(given) else str(option) for option in given]


def parse_options(text: str) -> list[str]:
    """Return the options that a text labels A, B, ... as `(A) red`, `A. red`, `A) red` or `A: red`; two or more.

    Of several such lists the longest, at equal length the last. The last option ends with its line.
    """
    labels = [(found.group(1) or found.group(2), found.start(), found.end()) for found in _LABEL.finditer(text)]
    best: list[tuple[str, int, int]] = []
    for first in range(len(labels)):
        run: list[tuple[str, int, int]] = []
        for label in labels[first:]:
            if len(run) < len(LETTERS) and label[0] == LETTERS[len(run)]:
                run.append(label)
        best = run if len(run) >= max(2, len(best)) else best
    ends = [start for _, start, _ in best[1:]] + [len(text)]
    found = [text[end:stop].strip().split("\n")[0] for (_, _, end), stop in zip(best, ends, strict=False)]
    return [option.strip(" ,;") for option in found]


def parse_choice(prediction: str, options: Sequence[str] = ()) -> str | None:
    """Return the letter that a prediction names; None where it names none, or more than one.

    In this order, the first that applies: (1) the letter alone, `B`, `(b)`, `B.`; (2) an option's text alone; (3) the
    letter behind "answer", "option" or "choice"; (4) the letter that opens it, `B: text`, unless the text is another
    option's; (5) a letter in parentheses; (6) a capital letter that stands alone, which "A" before a word and "not B"
    are not; (7) an option's text said somewhere, by the rule `contained`. Letters joined by "or", "and" or a comma
    are several.
    """
    said, letters = prediction.strip(_AROUND), LETTERS[: len(options)] or UNKNOWN
    alone = re.fullmatch(rf"\(?([{letters}{letters.lower()}])[.:)]*", said)
    if alone:
        return alone.group(1).upper()
    # the letter in "A: blue" is no article of an option "blue"
    label = _LABEL.match(f"{said} ")
    same = [
        letter
        for letter, option in zip(letters, options, strict=False)
        if same_answer(option, said) and (label is None or option.startswith(label[0]))
    ]
    if same:
        return _only(same)
    stated = _stated(said, letters, options)
    return _only(stated) if stated else _only(_affirmed(said, letters, options))


def _stated(said: str, letters: str, options: Sequence[str]) -> list[str]:
    """Letters of the first way (3 to 6) in which any is named."""
    one = rf"(?:\([{letters}]\)|\b[{letters}]\b)"
    several = rf"{one}(?:\s*(?:,|/|&|\bor\b|\band\b)+\s*{one})*"
    behind = re.findall(rf"(?i:\b(?:answer|option|choice)\b(?:\s+is)?)\s*:?\s*\**({several})", said)
    opening = re.match(rf"(?=\(|[{letters}]\)?[.:]|[{letters}]\))({several})[.:)]*\s*(.*)", said, re.DOTALL)
    if behind:
        return _letters(behind, letters)
    if opening:
        named, text = _letters([opening.group(1)], letters), opening.group(2)
        return named + [letter for letter, one in zip(letters, options, strict=False) if same_answer(one, text)]
    enclosed = re.findall(rf"\(([{letters}])\)", said)
    if enclosed:
        return _letters(enclosed, letters)
    # "A dog" has an article, and nobody is option I
    standing = re.findall(rf"(?<!(?i:\bnot) )(?<![\w'-])(?!A\s+(?!or\b|and\b)[a-z]|I\b)([{letters}])(?![\w'-])", said)
    return _letters(standing, letters)


def _letters(texts: Sequence[str], letters: str) -> list[str]:
    return [letter for text in texts for letter in re.findall(rf"\b[{letters}]\b", text)]


def _affirmed(said: str, letters: str, options: Sequence[str]) -> list[str]:
    """Options whose text is said; one that is part of another said one ("red" of "dark red") is not meant."""
    found = {letter: option for letter, option in zip(letters, options, strict=False) if affirms(said, option)}
    words = {letter: normal_words(option) for letter, option in found.items()}
    return [
        letter
        for letter in found
        if not any(len(longer) > len(words[letter]) and find_run(longer, words[letter]) is not None
                   for longer in words.values())
    ]  # fmt: skip


def _only(named: Sequence[str]) -> str | None:
    return named[0] if len(set(named)) == 1 else None


def _is_labelled(options: Sequence[str]) -> bool:
    """Whether every option begins with its own letter."""
    found = [_LABEL.match(f"{option} ") for option in options]
    return all(
        label is not None and (label.group(1) or label.group(2)) == letter
        for label, letter in zip(found, LETTERS, strict=False)
    )
