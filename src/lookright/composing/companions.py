"""The other images of a prompt: drawn from the target's own source and split, no picture twice."""

import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal, get_args

from lookright.common.answers import answer_key, same_answer
from lookright.composing.sources.base import Source, Split
from lookright.errors import ConfigError, RecordError
from lookright.types import Prompt, SourceRow

Within = Literal["split", "folder"]
Shortfall = Literal["skip", "fill"]
WHOLE_SPLIT = ""
"""Name of the one pool that companions come from where folders do not matter."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Companions:
    """Drawn rows; the last `num_filled` broke the rule, or left the folder, because there were no more."""

    rows: list[SourceRow]
    num_filled: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class _Pool:
    """Rows that may stand beside each other: positions of one row a picture, and of all rows by question."""

    pictures: list[int] = field(default_factory=list)
    questions: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, kw_only=True)
class _Question:
    """All pictures of a pool for which one question has one answer: positions of rows by picture and by answer."""

    by_picture: dict[str, int]
    by_answer: list[list[int]]


class CompanionDrawer(ABC):
    """Draws companions from one split; built once, a draw costs time in the number of companions only.

    `within=folder` draws from the pictures of the target's own folder, as the source names it. Where too
    few pictures fit, `shortfall=skip` raises RecordError (reason `few_companions`) and `fill` draws the
    rest at random, from the folder first and then from the whole split, and says how many. A rule of one's own has a
    name and `draw_fitting`.
    """

    rule: ClassVar[str]
    """Its name in `conf/companions/`, for the provenance."""

    def __init__(self, source: Source, split: Split, within: Within = "split", shortfall: Shortfall = "skip") -> None:
        for key, value, valid in (("within", within, get_args(Within)), ("shortfall", shortfall, get_args(Shortfall))):
            if value not in valid:
                raise ConfigError(f"companions.{key}={value!r}: valid are {', '.join(valid)}")
        self._source, self._rows = source, source.rows(split)
        self.within, self._shortfall = within, shortfall
        self._pools: defaultdict[str, _Pool] = defaultdict(_Pool)
        seen = set()
        for position, row in enumerate(self._rows):
            pool = self._pools[self._pool_name(row)]
            pool.questions.setdefault(source.question_key(row), []).append(position)
            if row.picture not in seen:
                seen.add(row.picture)
                pool.pictures.append(position)
        self._all_pictures = [position for pool in self._pools.values() for position in pool.pictures]
        self._question = lru_cache(maxsize=4096)(self._index_question)

    def draw(self, target: SourceRow, num_companions: int, rng: random.Random) -> Companions:
        """Rows whose pictures differ from each other and from the target's.

        A picture that also has a row with the target's question is given as that row, so `answers` knows
        what the question would be answered there. Raises RecordError (reason `few_companions`).
        """
        fitting = self.draw_fitting(target, num_companions, rng)
        if len(fitting) < num_companions and self._shortfall == "skip":
            raise self._too_few(target, self.shortage(target, len(fitting), num_companions))
        rows = list(fitting)
        for pictures in (self._pools[self._pool_name(target)].pictures, self._all_pictures):
            rows += self._draw_any(pictures, target, rows, num_companions - len(rows), rng)
        if len(rows) < num_companions:
            shortage = f"the split has {len(self._all_pictures)} pictures, {num_companions + 1} are needed"
            raise RecordError("few_companions", f"row {target.id}: {shortage}; show fewer images")
        return Companions(rows=rows, num_filled=num_companions - len(fitting))

    def answers(self, target: SourceRow, rows: Sequence[SourceRow]) -> list[str | None]:
        """What the target's question is answered for each row's picture; None where the source does not say."""
        key = self._source.question_key(target)
        return [row.answer if self._source.question_key(row) == key else None for row in rows]

    @abstractmethod
    def draw_fitting(self, target: SourceRow, num_rows: int, rng: random.Random) -> list[SourceRow]:
        """Return up to `num_rows` rows of the target's pool that the rule allows, drawn with `rng` alone."""

    def shortage(self, target: SourceRow, num_found: int, num_needed: int) -> str:
        """Return what there is too little of, for the message."""
        return f"{num_found} pictures of {self._place(target)} fit the rule {self.rule}, {num_needed} are needed"

    def rows_asking(self, target: SourceRow) -> list[SourceRow]:
        """Return the rows of the target's pool that ask its question about other pictures, one a picture."""
        found = self._question(self._pool_name(target), self._source.question_key(target)).by_picture
        return [self._rows[position] for picture, position in found.items() if picture != target.picture]

    def _remedies(self) -> list[str]:
        """Settings that leave more pictures to draw from."""
        return ["companions.within=split", "companions.shortfall=fill"] if self.within == "folder" else []

    def _too_few(self, target: SourceRow, shortage: str) -> RecordError:
        remedies = f"set {' or '.join(self._remedies())}, or " if self._remedies() else ""
        return RecordError("few_companions", f"row {target.id}: {shortage}; {remedies}show fewer images")

    def _pool_name(self, row: SourceRow) -> str:
        return self._source.folder_key(row) if self.within == "folder" else WHOLE_SPLIT

    def _place(self, target: SourceRow) -> str:
        return f"the folder {self._pool_name(target)!r}" if self.within == "folder" else "the split"

    def _draw_any(
        self, pictures: list[int], target: SourceRow, taken: Sequence[SourceRow], num_rows: int, rng: random.Random
    ) -> list[SourceRow]:
        """Up to `num_rows` rows among `pictures`, evenly, none with the picture of the target or of a taken row."""
        if not num_rows:
            return []
        used = {target.picture, *(row.picture for row in taken)}
        # of so many different pictures at least num_rows are unused, so nothing needs to be drawn again
        drawn = rng.sample(pictures, min(len(pictures), num_rows + len(used)))
        fresh = [row for row in (self._rows[position] for position in drawn) if row.picture not in used]
        key = self._source.question_key(target)
        return [self._asking(key, row) for row in fresh[:num_rows]]

    def _asking(self, key: str, row: SourceRow) -> SourceRow:
        """The row about the same picture that asks question `key`; the row itself where there is none."""
        position = self._question(self._pool_name(row), key).by_picture.get(row.picture)
        return row if position is None else self._rows[position]

    def _index_question(self, pool_name: str, key: str) -> _Question:
        by_picture: dict[str, int] = {}
        ambiguous = set()
        for position in self._pools[pool_name].questions.get(key, ()):
            row = self._rows[position]
            known = self._rows[by_picture.setdefault(row.picture, position)]
            if not same_answer(known.answer, row.answer):
                ambiguous.add(row.picture)
        by_answer: dict[tuple[str, ...], list[int]] = {}
        for picture, position in by_picture.items():
            if picture not in ambiguous:
                by_answer.setdefault(answer_key(self._rows[position].answer), []).append(position)
        return _Question(by_picture=by_picture, by_answer=list(by_answer.values()))


def companion_answers(prompt: Prompt) -> list[str]:
    """What the prompt's question is answered for the other images shown, where the source says it."""
    answers = prompt.provenance.get("region_answers") or []
    return [answer for number, answer in enumerate(answers) if number != prompt.target and answer is not None]


class RandomCompanions(CompanionDrawer):
    """Any other pictures, evenly."""

    rule = "random"

    def draw_fitting(self, target: SourceRow, num_rows: int, rng: random.Random) -> list[SourceRow]:
        """See `CompanionDrawer.draw_fitting`."""
        return self._draw_any(self._pools[self._pool_name(target)].pictures, target, [], num_rows, rng)

    def shortage(self, target: SourceRow, num_found: int, num_needed: int) -> str:
        """See `CompanionDrawer.shortage`."""
        return f"{self._place(target)} has {num_found + 1} pictures, {num_needed + 1} are needed"


class SameQuestionCompanions(CompanionDrawer):
    """Pictures for which the target's question has another answer, evenly over the answers first.

    Answers repeat only where there are fewer other answers than companions; a picture for which the
    question has two answers is never drawn, unless to fill up.
    """

    rule = "same_question"

    def draw_fitting(self, target: SourceRow, num_rows: int, rng: random.Random) -> list[SourceRow]:
        """One answer after the other in a drawn order, round after round.

        The target's own picture is not among them: it has the target's answer, or two.
        """
        question = self._question(self._pool_name(target), self._source.question_key(target))
        drawn = rng.sample(question.by_answer, min(len(question.by_answer), num_rows + 1))
        others = [rows for rows in drawn if not same_answer(self._rows[rows[0]].answer, target.answer)][:num_rows]
        piles = [rng.sample(rows, min(len(rows), num_rows)) for rows in others]
        turns = [self._rows[pile[turn]] for turn in range(num_rows) for pile in piles if turn < len(pile)]
        return turns[:num_rows]

    def shortage(self, target: SourceRow, num_found: int, num_needed: int) -> str:
        """See `CompanionDrawer.shortage`."""
        found = f"{num_found} pictures have another answer to {target.question!r} in {self._place(target)}"
        return f"{found}, {num_needed} are needed"

    def _remedies(self) -> list[str]:
        wider = ["companions.within=split"] if self.within == "folder" else []
        return ["companions=random", *wider, "companions.shortfall=fill"]
