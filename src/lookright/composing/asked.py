"""A question about pictures that a program holds, as the record that a file would have of it."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace

from lookright.composing.formats.sequence import placed_pictures
from lookright.errors import RecordError
from lookright.records.geometry import infer_geometry, named_in, picture_marks
from lookright.records.held_pictures import HeldPictures
from lookright.records.validate import FOREIGN_PLACEHOLDERS, check_geometry, check_placeholders
from lookright.types import IMAGE_PLACEHOLDER, FollowUp, Prompt, Region, Turn


def asked_prompt(
    pictures: HeldPictures,
    question: str,
    target: int | None = None,
    regions: Sequence[Region] | None = None,
    history: Sequence[Turn] = (),
) -> Prompt:
    """The record of a question, with placeholders and as much geometry as is given or can be read off.

    A question without any `<image>` has its pictures put before it: several as `Image1:<image>` ..., one alone as
    `<image>`. Without `regions` they are those of a record from elsewhere (`records.geometry`); without `target` it is
    the image that the question names, of several pictures also by its place in their order ("the second picture").
    With a `history` the pictures are those of the whole conversation, put before its first question where no question
    has any `<image>`; the image is still the one that the last question names. Raises RecordError for what a record
    may not be.
    """
    names = pictures.names
    if not question.replace(IMAGE_PLACEHOLDER, "").strip():
        raise RecordError("empty_prompt", "the question holds no text")
    asked = [*(turn.question for turn in history), question]
    if names and not any(IMAGE_PLACEHOLDER in text or FOREIGN_PLACEHOLDERS.search(text) for text in asked):
        asked[0] = placed_pictures(len(names)) + asked[0]
    *earlier, question = asked
    # of earlier questions nothing but their pictures: what they name is not asked about now
    whole = "\n".join([*(mark for text in earlier for mark in picture_marks(text)), question])
    plain = Prompt(id="question", images=names, prompt=whole, ground_truth="", format="", target=None, regions=None)
    check_placeholders(plain)
    found = infer_geometry(whole, names, pictures)
    assert found is not None, "placeholders were checked"
    if regions is not None:
        number = named_in(question)
        named = number - 1 if number is not None else 0 if len(regions) == 1 else None
        target = named if target is None else target
    elif target is None and (found.target is not None or len(names) == 1):
        target, regions = found.target, found.regions
    else:
        target = place_named(question, len(names)) if target is None else target
        regions = found.regions or [
            Region(picture=number, box=(0, 0, *pictures.size(name)), source=name) for number, name in enumerate(names)
        ]
        regions = None if target is None else regions
    regions = None if regions is None else list(regions)
    check_geometry(target, regions, [pictures.size(name) for name in names])
    located = replace(plain, prompt=question, format=found.format, target=target, regions=regions)
    turns = [Turn(text, turn.answer) for text, turn in zip(earlier, history, strict=True)]
    return following(located, turns) if turns else located


def following(prompt: Prompt, history: Sequence[Turn]) -> FollowUp:
    """The same question after earlier turns."""
    return FollowUp(**{field.name: getattr(prompt, field.name) for field in fields(prompt)}, history=tuple(history))


def place_named(question: str, count: int) -> int | None:
    """0-based place of the one picture, of `count`, that a question names by its order; None for none or several."""
    places = {word.lower() for word in _PLACE.findall(question)}
    if len(places) != 1:
        return None
    (word,) = places
    return count - 1 if word == "last" else ORDINALS.index(word) % len(_WORDS)


_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
ORDINALS = (*_WORDS, "1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")
_PLACE = re.compile(
    rf"\b({'|'.join(ORDINALS)}|last) (?:image|picture|photo|photograph|illustration|screenshot)\b", re.IGNORECASE
)
