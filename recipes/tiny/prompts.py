"""Prompts made on the fly: pictures once, several questions behind them."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageChops, ImageOps

from lookright.composing.companions import RandomCompanions, SameQuestionCompanions
from lookright.composing.formats.base import Composed, Composer, OpenPicture, lower_first
from lookright.composing.sources.base import Source, Split
from lookright.errors import RecordError
from lookright.types import Region, SourceRow
from recipes.tiny.phases import Phase

MAX_SHIFT = 0.07


@dataclass(slots=True, frozen=True, kw_only=True)
class AskedPrompt:
    """Pictures, the text before the questions, and (question text, answer, 0-based image) of each question."""

    format: str
    pictures: list[Image.Image]
    prefix: str
    questions: list[tuple[str, str, int]]
    regions: list[Region]


class PromptMaker:
    """Draws prompts of a phase from one split of a source; the same generator gives the same prompt.

    Companions answer the first question differently in half of the prompts. `varied` pictures are mirrored
    and shifted a little.
    """

    def __init__(self, source: Source, split: Split, composers: Sequence[Composer], phase: Phase, varied: bool) -> None:
        self.source, self.varied = source, varied
        self.rows = [row for row in source.rows(split) if phase.yes_no or row.answer not in ("yes", "no")]
        self.composers = [composer for composer in composers if phase.weights.get(composer.name, 0) > 0]
        self.weights = [phase.weights[composer.name] for composer in self.composers]
        self.num_questions, self.misnamed = phase.num_questions, phase.misnamed
        self.by_picture: dict[str, list[SourceRow]] = defaultdict(list)
        for row in self.rows:
            self.by_picture[row.picture].append(row)
        self.rows_by_id = {row.id: row for row in source.rows(split)}
        self.drawers = [rule(source, split, shortfall="fill") for rule in (RandomCompanions, SameQuestionCompanions)]
        self._opened: dict[str, Image.Image] = {}

    def make(self, rng: random.Random) -> AskedPrompt:
        """One prompt."""
        composer = rng.choices(self.composers, self.weights)[0]
        while True:
            target = rng.choice(self.rows)
            try:
                companions = rng.choice(self.drawers).draw(target, composer.draw_count(rng) - 1, rng).rows
                break
            except RecordError:
                continue
        composed = composer.compose(target, companions, self._opener(rng), rng)
        return self._asked(composer.name, composed, target, rng)

    def row_of(self, region: Region) -> SourceRow:
        """The row that a region shows."""
        return self.rows_by_id[region.source]

    def _opener(self, rng: random.Random) -> OpenPicture:
        """Opens pictures, varied where the maker varies them."""
        if not self.varied:
            return self._open
        return lambda row: varied(self._open(row), rng)

    def _open(self, row: SourceRow) -> Image.Image:
        """Pictures are small and few: each is decoded once."""
        if row.picture not in self._opened:
            self._opened[row.picture] = self.source.open(row)
        return self._opened[row.picture]

    def _asked(self, name: str, composed: Composed, target: SourceRow, rng: random.Random) -> AskedPrompt:
        prefix, line_feed, first = composed.prompt.rpartition("\n")
        lead = first[: len(first) - len(target.question)]
        numbered = lead.startswith("In Image")
        questions: list[tuple[str, str, int]] = []
        asked = [
            (composed.target, target),
            *self._candidates(composed, numbered, self.source.question_key(target), rng),
        ]
        for place, row in asked:
            text = lower_first(row.question) if lead else row.question
            named = place if rng.random() >= self.misnamed else rng.randrange(len(composed.regions))
            opening = f"In Image{named + 1}, " if numbered else lead
            if len(questions) < self.num_questions and (opening + text, row.answer, place) not in questions:
                questions.append((opening + text, row.answer, place))
        return AskedPrompt(
            format=name,
            pictures=composed.pictures,
            prefix=prefix + line_feed,
            questions=questions,
            regions=composed.regions,
        )

    def _candidates(
        self, composed: Composed, numbered: bool, key: str, rng: random.Random
    ) -> list[tuple[int, SourceRow]]:
        """Further questions: the same one about the other images first, then any about any image that can be named.

        Where images have no numbers only the target can be named, and any of them by mistake.
        """
        every = numbered or rng.random() < self.misnamed
        places = range(len(composed.regions)) if every else [composed.target]
        rows = [
            (place, row) for place in places for row in self.by_picture[self.row_of(composed.regions[place]).picture]
        ]
        rng.shuffle(rows)
        return sorted(rows, key=lambda pair: self.source.question_key(pair[1]) != key)


def varied(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture mirrored in half of the draws, and moved by up to `MAX_SHIFT` of its sides around its edges."""
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    across, down = (round(side * rng.uniform(-MAX_SHIFT, MAX_SHIFT)) for side in picture.size)
    return ImageChops.offset(picture, across, down)


class PictureLabels:
    """Classes of pictures, told by the answers that their questions have.

    `groups` are lists of answers that exclude each other (all colours, all shapes ...).
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.sizes = [len(group) for group in groups]
        self._index = [{answer: number for number, answer in enumerate(group)} for group in groups]

    def of(self, rows: Sequence[SourceRow]) -> torch.Tensor:
        """Class in each group, -100 where no question tells: int64[num_groups]."""
        answers = {row.answer for row in rows}
        known = [[index[answer] for answer in answers if answer in index] for index in self._index]
        return torch.tensor([classes[0] if len(classes) == 1 else -100 for classes in known])
