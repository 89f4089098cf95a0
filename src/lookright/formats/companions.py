"""The other images of a prompt: drawn from the target's own source and split, no picture twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from lookright.errors import ConfigError, RecordError
from lookright.sources.base import Source, Split, normalise
from lookright.types import SourceRow

CompanionRule = Literal["random", "same_question"]
Shortfall = Literal["skip", "fill"]


@dataclass(slots=True, frozen=True, kw_only=True)
class Companions:
    """Drawn rows; the last `num_filled` broke the rule `same_question` because it found no more."""

    rows: list[SourceRow]
    num_filled: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class _Question:
    """All pictures for which one question has one answer: positions of rows by picture and by answer."""

    by_picture: dict[str, int]
    by_answer: list[list[int]]


class CompanionDrawer:
    """Draws companions from one split; built once, a draw costs time in the number of companions only.

    `random`: any other pictures, evenly. `same_question`: pictures for which the target's question has
    another answer, evenly over the answers first, so that answers repeat only where there are fewer
    other answers than companions; a picture for which the question has two answers is never drawn.
    Where too few such pictures exist, `shortfall=skip` raises RecordError (reason `few_companions`) and
    `fill` draws the rest at random and says how many.
    """

    def __init__(
        self, source: Source, split: Split, companions: CompanionRule = "random", shortfall: Shortfall = "skip"
    ) -> None:
        if companions not in get_args(CompanionRule):
            raise ConfigError(f"companions={companions!r}: valid are {', '.join(get_args(CompanionRule))}")
        if shortfall not in get_args(Shortfall):
            raise ConfigError(f"shortfall={shortfall!r}: valid are {', '.join(get_args(Shortfall))}")
        self._source, self._rows = source, source.rows(split)
        self.rule, self._shortfall = companions, shortfall
        first_rows: dict[str, int] = {}
        self._questions: dict[str, list[int]] = {}
        for position, row in enumerate(self._rows):
            first_rows.setdefault(row.picture, position)
            self._questions.setdefault(source.question_key(row), []).append(position)
        self._pictures = list(first_rows.values())
        self._question = lru_cache(maxsize=4096)(self._index_question)

    def draw(self, target: SourceRow, num_companions: int, rng: random.Random) -> Companions:
        """Rows whose pictures differ from each other and from the target's.

        A picture that also has a row with the target's question is given as that row, so `answers` knows
        what the question would be answered there. Raises RecordError (reason `few_companions`).
        """
        question = self._question(self._source.question_key(target))
        rows = self._other_answers(question, target, num_companions, rng) if self.rule == "same_question" else []
        missing = num_companions - len(rows)
        if missing and self.rule == "same_question" and self._shortfall == "skip":
            raise RecordError(
                "few_companions",
                f"row {target.id}: {len(rows)} pictures have another answer to {target.question!r}, "
                f"{num_companions} are needed; set companions=random or shortfall=fill, or show fewer images",
            )
        filled = self._any_pictures(question, {target.picture, *(row.picture for row in rows)}, missing, rng)
        return Companions(rows=rows + filled, num_filled=missing if self.rule == "same_question" else 0)

    def answers(self, target: SourceRow, rows: Sequence[SourceRow]) -> list[str | None]:
        """What the target's question is answered for each row's picture; None where the source does not say."""
        key = self._source.question_key(target)
        return [row.answer if self._source.question_key(row) == key else None for row in rows]

    def _index_question(self, key: str) -> _Question:
        by_picture: dict[str, int] = {}
        ambiguous = set()
        for position in self._questions.get(key, ()):
            row = self._rows[position]
            known = self._rows[by_picture.setdefault(row.picture, position)]
            if normalise(known.answer) != normalise(row.answer):
                ambiguous.add(row.picture)
        by_answer: dict[str, list[int]] = {}
        for picture, position in by_picture.items():
            if picture not in ambiguous:
                by_answer.setdefault(normalise(self._rows[position].answer), []).append(position)
        return _Question(by_picture=by_picture, by_answer=list(by_answer.values()))

    def _other_answers(
        self, question: _Question, target: SourceRow, num_rows: int, rng: random.Random
    ) -> list[SourceRow]:
        """Up to `num_rows` rows, one answer after the other in a drawn order, round after round.

        The target's own picture is not among them: it has the target's answer, or two.
        """
        drawn = rng.sample(question.by_answer, min(len(question.by_answer), num_rows + 1))
        own = normalise(target.answer)
        others = [rows for rows in drawn if normalise(self._rows[rows[0]].answer) != own][:num_rows]
        piles = [rng.sample(rows, min(len(rows), num_rows)) for rows in others]
        turns = [self._rows[pile[turn]] for turn in range(num_rows) for pile in piles if turn < len(pile)]
        return turns[:num_rows]

    def _any_pictures(self, question: _Question, used: set[str], num_rows: int, rng: random.Random) -> list[SourceRow]:
        wanted = min(len(self._pictures), num_rows + len(used))
        drawn = [self._rows[position] for position in rng.sample(self._pictures, wanted)] if num_rows else []
        fresh = [row for row in drawn if row.picture not in used][:num_rows]
        if len(fresh) < num_rows:
            raise RecordError(
                "few_companions",
                f"the split has {len(self._pictures)} pictures, too few for {num_rows} more beside {len(used)}; "
                "show fewer images",
            )
        return [
            self._rows[question.by_picture[row.picture]] if row.picture in question.by_picture else row for row in fresh
        ]
