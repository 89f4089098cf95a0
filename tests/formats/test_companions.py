import random
from collections import Counter
from collections.abc import Callable

import pytest

from lookright.errors import ConfigError, RecordError
from lookright.formats.companions import CompanionDrawer
from lookright.sources.base import Source, Split, normalise
from lookright.sources.easy_vqa import EasyVqa
from lookright.sources.fashion_mnist import FashionMnist

MakeSource = Callable[..., Source]


COLOUR = [("0", "What colour?", "red"), ("1", "what  colour", "Red."), ("2", "What colour?", "blue")]


def test_random_companions_are_other_pictures_evenly(ten_pictures: Source) -> None:
    """Each of nine others is drawn in a third of 3,000 draws of three: 1,000, five deviations 129."""
    drawer = CompanionDrawer(ten_pictures, "train")
    target = ten_pictures.rows("train")[4]
    rng = random.Random(0)
    counts: Counter[str] = Counter()
    for _ in range(3000):
        rows = drawer.draw(target, 3, rng).rows
        assert len({target.picture, *(row.picture for row in rows)}) == 4
        counts.update(row.picture for row in rows)
    assert len(counts) == 9
    assert all(abs(count - 1000) < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5 for count in counts.values())


def test_same_question_ignores_spelling_and_equal_answers(painted: MakeSource) -> None:
    source = painted([*COLOUR, ("3", "What shape?", "round")])
    drawer = CompanionDrawer(source, "train", companions="same_question")
    target = source.rows("train")[0]
    for seed in range(20):
        assert [row.picture for row in drawer.draw(target, 1, random.Random(seed)).rows] == ["train/2"]


def test_too_few_is_told_or_filled_and_counted(painted: MakeSource) -> None:
    source = painted([*COLOUR, ("3", "What shape?", "round")])
    target = source.rows("train")[0]
    with pytest.raises(RecordError, match="painted/train/0: 1 pictures have another answer .* 2 are needed") as error:
        CompanionDrawer(source, "train", companions="same_question").draw(target, 2, random.Random(0))
    assert error.value.reason == "few_companions"
    drawn = CompanionDrawer(source, "train", companions="same_question", shortfall="fill").draw(
        target, 3, random.Random(0)
    )
    assert drawn.num_filled == 2
    assert drawn.rows[0].picture == "train/2"
    assert {row.picture for row in drawn.rows} == {"train/1", "train/2", "train/3"}


def test_a_split_with_too_few_pictures_is_told(painted: MakeSource) -> None:
    source = painted(COLOUR)
    with pytest.raises(RecordError, match="the split has 3 pictures"):
        CompanionDrawer(source, "train").draw(source.rows("train")[0], 3, random.Random(0))


def test_a_picture_with_two_answers_is_never_drawn(painted: MakeSource) -> None:
    source = painted([*COLOUR, ("3", "What colour?", "green"), ("3", "what colour?", "red")])
    drawer = CompanionDrawer(source, "train", companions="same_question")
    pictures = {drawer.draw(source.rows("train")[0], 1, random.Random(seed)).rows[0].picture for seed in range(30)}
    assert pictures == {"train/2"}


def test_answers_differ_among_companions_where_they_can(painted: MakeSource) -> None:
    """Twenty red, and one picture of each of three others: three companions have three answers."""
    asked = [(str(n), "What colour?", "red") for n in range(20)]
    asked += [("20", "What colour?", "blue"), ("21", "What colour?", "green"), ("22", "What colour?", "gray")]
    source = painted(asked)
    rows = source.rows("train")
    drawer = CompanionDrawer(source, "train", companions="same_question")
    for seed in range(20):
        from_blue = drawer.draw(rows[20], 3, random.Random(seed)).rows
        assert sorted(row.answer for row in from_blue) == ["gray", "green", "red"]
        four = Counter(row.answer for row in drawer.draw(rows[20], 4, random.Random(seed)).rows)
        assert four == {"gray": 1, "green": 1, "red": 2}


@pytest.mark.parametrize("source", [EasyVqa(), FashionMnist()])
@pytest.mark.parametrize("split", ["train", "test"])
def test_on_the_shipped_data_no_companion_shares_the_answer(source: Source, split: Split) -> None:
    rows = source.rows(split)
    keys = {row.id for row in rows}
    drawer = CompanionDrawer(source, split, companions="same_question")
    rng = random.Random(7)
    for target in rng.sample(list(rows), 200):
        drawn = drawer.draw(target, 4, rng).rows
        assert len({target.picture, *(row.picture for row in drawn)}) == 5
        assert all(source.question_key(row) == source.question_key(target) for row in drawn)
        assert all(normalise(row.answer) != normalise(target.answer) for row in drawn)
        assert {row.id for row in drawn} <= keys
        assert drawer.answers(target, drawn) == [row.answer for row in drawn]


def test_random_companions_bring_their_answer_to_the_question(painted: MakeSource) -> None:
    """Picture 1 is asked about its shape first; where the colour is asked, its row about the colour is drawn."""
    source = painted(
        [("0", "Colour?", "red"), ("1", "Shape?", "round"), ("1", "Colour?", "red"), ("2", "Shape?", "flat")]
    )
    target = source.rows("train")[0]
    drawer = CompanionDrawer(source, "train")
    rows = sorted(drawer.draw(target, 2, random.Random(0)).rows, key=lambda row: row.picture)
    assert drawer.answers(target, rows) == ["red", None]


def test_unknown_choices_name_the_valid_ones(painted: MakeSource) -> None:
    with pytest.raises(ConfigError, match="companions='hard': valid are random, same_question"):
        CompanionDrawer(painted(COLOUR), "train", companions="hard")
    with pytest.raises(ConfigError, match="shortfall='none': valid are skip, fill"):
        CompanionDrawer(painted(COLOUR), "train", shortfall="none")
