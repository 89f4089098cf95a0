import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from lookright.composing.companions import CompanionDrawer, RandomCompanions, SameQuestionCompanions, Shortfall
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.composing.formats.sequence import SequenceFormat
from lookright.composing.plan import PromptPlanner
from lookright.composing.sources.base import Source, Split, normalise
from lookright.composing.sources.easy_vqa import EasyVqa
from lookright.composing.sources.fashion_mnist import FashionMnist
from lookright.errors import ConfigError, RecordError
from lookright.types import SourceRow

MakeSource = Callable[..., Source]


COLOUR = [("0", "What colour?", "red"), ("1", "what  colour", "Red."), ("2", "What colour?", "blue")]


def test_random_companions_are_other_pictures_evenly(ten_pictures: Source) -> None:
    """Each of nine others is drawn in a third of 3,000 draws of three: 1,000, five deviations 129."""
    drawer = RandomCompanions(ten_pictures, "train")
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
    drawer = SameQuestionCompanions(source, "train")
    target = source.rows("train")[0]
    for seed in range(20):
        assert [row.picture for row in drawer.draw(target, 1, random.Random(seed)).rows] == ["train/2"]


def test_another_answer_is_what_selection_and_scoring_call_another(painted: MakeSource) -> None:
    """ "two" and "2", "a dog" and "dog" are the same answer: none is a companion of the other."""
    rows = [("0", "How many?", "2"), ("1", "How many?", "two"), ("2", "How many?", "Two."), ("3", "How many?", "3")]
    source = painted(rows)
    drawer = SameQuestionCompanions(source, "train")
    for seed in range(20):
        assert [row.picture for row in drawer.draw(source.rows("train")[0], 1, random.Random(seed)).rows] == ["train/3"]
    with pytest.raises(RecordError, match="1 pictures have another answer"):
        drawer.draw(source.rows("train")[0], 2, random.Random(0))


def test_too_few_is_told_or_filled_and_counted(painted: MakeSource) -> None:
    source = painted([*COLOUR, ("3", "What shape?", "round")])
    target = source.rows("train")[0]
    with pytest.raises(RecordError, match="painted/train/0: 1 pictures have another answer .* 2 are needed") as error:
        SameQuestionCompanions(source, "train").draw(target, 2, random.Random(0))
    assert error.value.reason == "few_companions"
    drawn = SameQuestionCompanions(source, "train", shortfall="fill").draw(target, 3, random.Random(0))
    assert drawn.num_filled == 2
    assert drawn.rows[0].picture == "train/2"
    assert {row.picture for row in drawn.rows} == {"train/1", "train/2", "train/3"}


def test_a_split_with_too_few_pictures_is_told(painted: MakeSource) -> None:
    source = painted(COLOUR)
    with pytest.raises(RecordError, match="row painted/train/0: the split has 3 pictures, 4 are needed; show fewer"):
        RandomCompanions(source, "train").draw(source.rows("train")[0], 3, random.Random(0))


def test_a_picture_with_two_answers_is_never_drawn(painted: MakeSource) -> None:
    source = painted([*COLOUR, ("3", "What colour?", "green"), ("3", "what colour?", "red")])
    drawer = SameQuestionCompanions(source, "train")
    pictures = {drawer.draw(source.rows("train")[0], 1, random.Random(seed)).rows[0].picture for seed in range(30)}
    assert pictures == {"train/2"}


def test_answers_differ_among_companions_where_they_can(painted: MakeSource) -> None:
    """Twenty red, and one picture of each of three others: three companions have three answers."""
    asked = [(str(n), "What colour?", "red") for n in range(20)]
    asked += [("20", "What colour?", "blue"), ("21", "What colour?", "green"), ("22", "What colour?", "gray")]
    source = painted(asked)
    rows = source.rows("train")
    drawer = SameQuestionCompanions(source, "train")
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
    drawer = SameQuestionCompanions(source, split)
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
    drawer = RandomCompanions(source, "train")
    rows = sorted(drawer.draw(target, 2, random.Random(0)).rows, key=lambda row: row.picture)
    assert drawer.answers(target, rows) == ["red", None]


def test_unknown_choices_name_the_valid_ones(painted: MakeSource) -> None:
    with pytest.raises(ConfigError, match="companions.within='disk': valid are split, folder"):
        RandomCompanions(painted(COLOUR), "train", within="disk")
    with pytest.raises(ConfigError, match="companions.shortfall='none': valid are skip, fill"):
        SameQuestionCompanions(painted(COLOUR), "train", shortfall="none")


@pytest.mark.parametrize("rule", [RandomCompanions, SameQuestionCompanions])
@pytest.mark.parametrize("seed", range(30))
def test_companions_of_a_folder(rule: type[CompanionDrawer], seed: int) -> None:
    """Random trees of folders; what each rule may draw is told by a search through all rows."""
    rng = random.Random(seed)
    source = random_tree(rng)
    rows = source.rows("train")
    strict, filling = (rule(source, "train", within="folder", shortfall=shortfall) for shortfall in ("skip", "fill"))
    for target in rng.sample(rows, min(len(rows), 15)):
        number = rng.randint(1, 5)
        allowed = allowed_pictures(rule, target, [row for row in rows if folder(row) == folder(target)])
        if number <= len(allowed):
            drawn = strict.draw(target, number, rng)
            assert drawn.num_filled == 0
        else:
            with pytest.raises(RecordError, match="set .*companions.within=split") as error:
                strict.draw(target, number, rng)
            assert error.value.reason == "few_companions" and f"the folder {folder(target)!r}" in str(error.value)
            if number > len({row.picture for row in rows}) - 1:
                with pytest.raises(RecordError, match="the split has"):
                    filling.draw(target, number, rng)
                continue
            drawn = filling.draw(target, number, rng)
            assert drawn.num_filled == number - len(allowed)
        pictures = [row.picture for row in drawn.rows]
        fitting = pictures[: number - drawn.num_filled]
        assert len({target.picture, *pictures}) == number + 1
        assert set(fitting) <= allowed
        # what is filled up comes from the folder while it has any left
        inside = {row.picture for row in rows if folder(row) == folder(target)} - {target.picture}
        assert len(inside & set(pictures)) == min(number, len(inside))


def test_within_a_folder_every_picture_comes_evenly() -> None:
    """Two of five others, 2,500 draws: 1,000 each within five deviations, from a folder among larger ones."""
    asked = [
        (f"{name}/{n}.jpg", "What?", f"{n}") for name, many in (("a", 6), ("b", 40), ("c/d", 9)) for n in range(many)
    ]
    source = TreeSource(asked)
    drawer = RandomCompanions(source, "train", within="folder")
    rng = random.Random(0)
    counts = Counter(row.picture for _ in range(2500) for row in drawer.draw(source.rows("train")[2], 2, rng).rows)
    assert set(counts) == {f"a/{n}.jpg" for n in (0, 1, 3, 4, 5)}
    assert all(abs(count - 1000) < 5 * (2500 * 0.4 * 0.6) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            RandomCompanions,
            "row tree/0: the folder 'a' has 2 pictures, 3 are needed; "
            "set companions.within=split or companions.shortfall=fill, or show fewer images",
        ),
        (
            SameQuestionCompanions,
            "row tree/0: 1 pictures have another answer to 'What?' in the folder 'a', 2 are needed; "
            "set companions=random or companions.within=split or companions.shortfall=fill, or show fewer images",
        ),
    ],
)
def test_a_folder_with_too_few_pictures_is_named(rule: type[CompanionDrawer], message: str) -> None:
    source = TreeSource([("a/0.jpg", "What?", "x"), ("a/1.jpg", "What?", "y"), ("b/2.jpg", "What?", "z")])
    with pytest.raises(RecordError) as error:
        rule(source, "train", within="folder").draw(source.rows("train")[0], 2, random.Random(0))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "split", "rule", "digest"),
    [
        (EasyVqa(yes_no=False), "train", RandomCompanions, "731045ac53917978"),
        (EasyVqa(yes_no=False), "train", SameQuestionCompanions, "5594810f8978d4dd"),
        (EasyVqa(yes_no=False), "test", RandomCompanions, "b19e39b2f51a6a26"),
        (EasyVqa(yes_no=False), "test", SameQuestionCompanions, "bdaed945dff37e16"),
        (FashionMnist(), "train", RandomCompanions, "ac0bf69a5cedd538"),
        (FashionMnist(), "train", SameQuestionCompanions, "84b87962d3e46426"),
        (FashionMnist(), "test", RandomCompanions, "70c6b38b0f1c30fd"),
        (FashionMnist(), "test", SameQuestionCompanions, "55ae9c1b3d5b24e8"),
    ],
)
def test_the_draws_of_a_seed_stay(source: Source, split: Split, rule: type[CompanionDrawer], digest: str) -> None:
    """Digests of the ids that 300 prompts of seed 0 had when `within` did not exist: published prompts stay."""
    planner = PromptPlanner(source, split, [SequenceFormat(), GridCollage(), PicInPic()], rule(source, split), seed=0)
    assert ids_digest(planner, 300) == digest


@pytest.mark.parametrize(
    ("shortfall", "digest", "num_filled", "num_skipped"),
    [("skip", "50ae25bbe638abf9", 0, 73), ("fill", "f657e766ece01c1d", 141, 0)],
)
def test_the_draws_where_pictures_run_short_stay(
    shortfall: Shortfall, digest: str, num_filled: int, num_skipped: int
) -> None:
    """As above, with nine images, for which 73 of 600 questions have too few other answers."""
    source = EasyVqa()
    drawer = SameQuestionCompanions(source, "test", shortfall=shortfall)
    planner = PromptPlanner(source, "test", [GridCollage(mixture={9: 1})], drawer, seed=3)
    assert ids_digest(planner, 600) == digest
    assert planner.skipped["few_companions"] == num_skipped
    assert sum(plan.provenance["random_companions"] for plan in planner.plans(600)) == num_filled


def test_a_draw_looks_at_few_rows() -> None:
    """Forty thousand pictures, and a draw of four opens no more than a few dozen of their rows."""
    asked = [(f"{n % 4}/{n}.jpg", "What?", f"{n % 7}") for n in range(40_000)]
    source = TreeSource(asked)
    for rule in (RandomCompanions, SameQuestionCompanions):
        drawer = rule(source, "train", within="folder")
        target = source.rows("train")[5]
        drawer.draw(target, 4, random.Random(0))  # builds the index of the question
        counted = CountingList(drawer._rows)
        drawer._rows = counted
        drawer.draw(target, 4, random.Random(1))
        assert 0 < counted.num_looks <= 40


class TreeSource(Source):
    """Rows of given pictures, questions and answers."""

    name = "tree"

    def __init__(self, asked: Sequence[tuple[str, str, str]]) -> None:
        self._rows = [
            SourceRow(id=f"tree/{n}", picture=picture, question=question, answer=answer)
            for n, (picture, question, answer) in enumerate(asked)
        ]

    def rows(self, split: Split) -> list[SourceRow]:
        return self._rows

    def open(self, row: SourceRow) -> Image.Image:
        raise AssertionError("no picture is opened to draw companions")


class CountingList(list):
    """Counts how many items are looked at."""

    num_looks = 0

    def __getitem__(self, place: int) -> SourceRow:
        self.num_looks += 1
        return super().__getitem__(place)


def random_tree(rng: random.Random) -> TreeSource:
    """One to six folders, some below others, of 1 to 8 pictures with up to three questions and few answers."""
    names = rng.sample(["", "a/", "b/", "a/b/", "vg/VG_100K/", "vg/VG_100K_2/"], rng.randint(1, 6))
    pictures = [f"{name}{n}.jpg" for name in names for n in range(rng.randint(1, 8))]
    asked = [
        (picture, rng.choice(["What?", "Where?"]), rng.choice("xyz"))
        for picture in pictures
        for _ in range(rng.randint(1, 3))
    ]
    rng.shuffle(asked)
    return TreeSource(asked)


def folder(row: SourceRow) -> str:
    return row.picture.rpartition("/")[0] or "."


def allowed_pictures(rule: type[CompanionDrawer], target: SourceRow, rows: list[SourceRow]) -> set[str]:
    """Pictures that the rule may draw, by its definition."""
    others = {row.picture for row in rows} - {target.picture}
    if rule is RandomCompanions:
        return others
    answers = {
        picture: {row.answer for row in rows if row.picture == picture and row.question == target.question}
        for picture in others
    }
    return {picture for picture, found in answers.items() if len(found) == 1 and found != {target.answer}}


def ids_digest(planner: PromptPlanner, number: int) -> str:
    """Digest of the ids of targets and companions, and of how many were filled up."""
    lines = [
        " ".join([plan.target.id, *(row.id for row in plan.companions), str(plan.provenance["random_companions"])])
        for plan in planner.plans(number)
    ]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
