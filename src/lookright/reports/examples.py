"""Answered questions as cards: pictures, where each model looked, what it said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookright.common.formats import format_title
from lookright.records.pictures import Pictures
from lookright.reports.cells import Cell, ratio_text, score_line
from lookright.reports.heat import HeatValues
from lookright.reports.pictures import HeatRows, PictureRow, heat_pictures, prompt_pictures
from lookright.types import IMAGE_PLACEHOLDER, Preference, Prompt


@dataclass(slots=True, frozen=True, kw_only=True)
class ShownAnswer:
    """What a model said. `heat` has, for each picture, (footprint, attention) of its tokens, where it was read.

    `factor` is what the image logits were scaled by, None where they were not.
    """

    text: str
    correct: bool
    attention_ratio: float | None = None
    scaled_ratio: float | None = None
    confidence: float | None = None
    factor: float | None = None
    error_kind: str | None = None
    heat: Sequence[HeatValues] | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class Example:
    """One question and its answers by the model's name; `even_ratio` is the attention ratio of an even look.

    `pictures` opens what the prompt names; `outcome` says what came of it, in a word or two.
    """

    prompt: Prompt
    pictures: Pictures
    answers: Mapping[str, ShownAnswer]
    even_ratio: float | None = None
    outcome: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Card:
    """What a card shows: chips, pictures, the question's text, (term, text) entries and a line of numbers."""

    chips: list[Cell]
    id: str
    pictures: PictureRow
    text: str
    entries: list[tuple[str, Cell]]
    scores: str = ""
    heat: HeatRows | None = None


def prompt_card(
    prompt: Prompt | Preference,
    pictures: Pictures,
    chips: Sequence[Cell],
    entries: Sequence[tuple[str, Cell]],
    scores: str = "",
    heat: HeatRows | None = None,
) -> Card:
    """A card about one prompt; `pictures` opens what it names."""
    plural = "" if prompt.num_sources == 1 else "s"
    kind = Cell(text=f"{format_title(prompt.format or 'Format not known')}, {prompt.num_sources} image{plural}")
    return Card(
        chips=[kind, *chips],
        id=prompt.id,
        pictures=prompt_pictures(prompt, pictures),
        text=bare_text(prompt.prompt),
        entries=list(entries),
        scores=scores,
        heat=heat,
    )


def example_card(example: Example) -> Card:
    """A card with the answers of one model or several."""
    prompt, answers = example.prompt, example.answers
    seen = {name: answer.heat for name, answer in answers.items() if answer.heat is not None}
    heat = heat_pictures(prompt, example.pictures, seen) if seen else None
    entries = [("Ground truth", Cell(text=prompt.ground_truth)), *((name, _said(one)) for name, one in answers.items())]
    chips, scores = (
        [Cell(text=example.outcome)] if example.outcome else [],
        score_line({"even_ratio": example.even_ratio}),
    )
    if len(answers) == 1:
        (answer,) = answers.values()
        chips.append(Cell(text="right", kind="good") if answer.correct else Cell(text="wrong", kind="bad"))
        chips += [Cell(text=answer.error_kind.replace("_", " "))] if answer.error_kind else []
        known = {"attention_ratio": answer.attention_ratio, "even_ratio": example.even_ratio}
        # what only an adaptive decoder has, and what it decided by
        own = {"scaled_ratio": answer.scaled_ratio, "confidence": answer.confidence, "factor": answer.factor}
        scores = score_line(known | own)
    elif any(answer.attention_ratio is not None for answer in answers.values()):
        looked = [f"{name} {ratio_text(one.attention_ratio, None) or '-'}" for name, one in answers.items()]
        even = "" if example.even_ratio is None else f" (even {example.even_ratio:.2f})"
        scores = f"attention ratio: {', '.join(looked)}{even}"
    return prompt_card(prompt, example.pictures, chips, entries, scores, heat)


def bare_text(prompt: str) -> str:
    """A prompt's text without placeholders and their labels: the pictures are shown above it."""
    lines = [line.replace(IMAGE_PLACEHOLDER, "").strip() for line in prompt.splitlines()]
    return "\n".join(line for line in lines if line and not (line.startswith("Image") and line.endswith(":")))


def _said(answer: ShownAnswer) -> Cell:
    verdict = "right" if answer.correct else "wrong"
    return Cell(text=answer.text or "(empty)", note=f"({verdict})", kind="good" if answer.correct else "bad")
