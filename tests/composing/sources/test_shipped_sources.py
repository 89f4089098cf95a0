from collections import Counter

import pytest

from lookright.composing.sources.base import Source, Split, normalise
from lookright.composing.sources.easy_vqa import EasyVqa
from lookright.composing.sources.fashion_mnist import ASSETS, CLASS_NAMES, PHRASINGS, FashionMnist
from lookright.errors import ConfigError, RecordError
from lookright.types import SourceRow


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        (EasyVqa(), {"train": (38575, 4000), "test": (9673, 1000)}),
        (FashionMnist(), {"train": (2000, 2000), "test": (1000, 1000)}),
    ],
)
def test_rows_and_pictures_of_both_splits(source: Source, sizes: dict[Split, tuple[int, int]]) -> None:
    ids: list[str] = []
    for split, (num_rows, num_pictures) in sizes.items():
        rows = source.rows(split)
        assert len(rows) == num_rows
        assert len({row.picture for row in rows}) == num_pictures
        assert all(row.id.startswith(f"{source.name}/{split}/") for row in rows)
        assert all(row.question and row.answer for row in rows)
        ids += [row.id for row in rows]
    assert len(set(ids)) == len(ids)


def test_easy_vqa_rows_are_those_of_the_package() -> None:
    rows = EasyVqa().rows("test")
    assert rows[0] == SourceRow(
        id="easy_vqa/test/0-0", picture="test/0", question="what is the red shape?", answer="triangle"
    )
    assert rows[1].id == "easy_vqa/test/0-1"
    assert EasyVqa().open(rows[0]).size == (64, 64)
    red = [colour for _, colour in EasyVqa().open(rows[0]).getcolors(4096) if colour == (255, 0, 0)]
    assert red, "picture 0 of the test split shows a red shape"


@pytest.mark.parametrize("source", [EasyVqa(), FashionMnist()])
def test_splits_share_no_picture(source: Source) -> None:
    train, test = (
        {source.open(row).tobytes() for row in _one_row_a_picture(source, split)} for split in ("train", "test")
    )
    assert not train & test
    assert source.name != "fashion_mnist" or (len(train), len(test)) == (2000, 1000)


def test_fashion_mnist_is_balanced_and_small() -> None:
    for split, per_class in (("train", 200), ("test", 100)):
        counts = Counter(row.answer for row in FashionMnist().rows(split))
        assert counts == dict.fromkeys(CLASS_NAMES, per_class)
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 2 * 2**20
    assert "MIT" in (ASSETS / "NOTICE").read_text()


def test_every_phrasing_is_used_and_asks_the_same() -> None:
    rows = FashionMnist().rows("train")
    counts = Counter(row.question for row in rows)
    assert set(counts) == set(PHRASINGS)
    assert min(counts.values()) > 250, counts
    assert len({FashionMnist().question_key(row) for row in rows}) == 1


def test_more_questions_a_picture_are_other_phrasings() -> None:
    rows = FashionMnist(questions_per_picture=6).rows("test")
    assert len(rows) == 6000
    assert {row.question for row in rows[:6]} == set(PHRASINGS)
    assert rows[0] == FashionMnist().rows("test")[0]
    with pytest.raises(ConfigError, match="source.questions_per_picture=7"):
        FashionMnist(questions_per_picture=7)


def test_pictures_are_28_pixels_rgb_and_not_each_other() -> None:
    """Picture 0 of the training file is an ankle boot whose first line of pixels is black, row 3 is not."""
    source = FashionMnist()
    boots = [row for row in source.rows("train") if row.answer == "ankle boot"]
    picture = source.open(boots[0])
    assert (picture.size, picture.mode) == ((28, 28), "RGB")
    assert max(picture.crop((0, 0, 28, 1)).tobytes()) == 0
    assert picture.convert("L").getpixel((12, 3)) == 1


def test_an_unknown_split_and_a_missing_picture_are_named() -> None:
    with pytest.raises(ConfigError, match="split='val'"):
        EasyVqa().rows("val")
    row = SourceRow(id="easy_vqa/test/x", picture="test/99999", question="q", answer="a")
    with pytest.raises(RecordError, match=r"row easy_vqa/test/x: cannot read the picture .*99999.png") as error:
        EasyVqa().open(row)
    assert error.value.reason == "picture"


def test_normalised_text() -> None:
    assert normalise("  What is\n this ? ") == "what is this"
    assert normalise("Yes.") == normalise("yes")
    assert normalise("3.5") == "3.5"


def _one_row_a_picture(source: Source, split: Split) -> list[SourceRow]:
    return list({row.picture: row for row in source.rows(split)}.values())


def test_a_folder_is_what_precedes_the_name_of_the_picture() -> None:
    source = FashionMnist()
    rows = {
        "coco/train2017/000000033471.jpg": "coco/train2017",
        "vg/VG_100K/2.jpg": "vg/VG_100K",
        "vg/VG_100K_2/2.jpg": "vg/VG_100K_2",
        "./gqa//images/1.jpg": "gqa/images",
        "alone.jpg": ".",
    }
    for picture, folder in rows.items():
        assert source.folder_key(SourceRow(id="r", picture=picture, question="", answer="")) == folder
