import random
from collections import Counter

from lookright.composing.formats.sequence import SequenceFormat
from lookright.composing.formats.single import SingleImage
from lookright.composing.sources.base import Source


def test_each_image_is_a_picture_and_its_region(ten_pictures: Source) -> None:
    rows = ten_pictures.rows("train")
    composed = SequenceFormat().compose(rows[0], rows[1:3], ten_pictures.open, random.Random(1))
    assert (
        composed.prompt
        == f"Image1:<image>\nImage2:<image>\nImage3:<image>\nIn Image{composed.target + 1}, what is shown?"
    )
    assert composed.regions[composed.target].source == rows[0].id
    assert [region.picture for region in composed.regions] == [0, 1, 2]
    by_id = {row.id: row for row in rows}
    for region, picture in zip(composed.regions, composed.pictures, strict=True):
        assert region.box == (0, 0, *picture.size)
        assert picture.getpixel((0, 0)) == ten_pictures.colour(by_id[region.source])


def test_the_target_takes_every_place_evenly(ten_pictures: Source) -> None:
    rows = ten_pictures.rows("train")
    rng = random.Random(5)
    places = Counter(SequenceFormat().arrange(rows[0], rows[1:5], rng)[1] for _ in range(5000))
    assert set(places) == {0, 1, 2, 3, 4}
    assert all(abs(count - 1000) < 5 * (5000 * 0.2 * 0.8) ** 0.5 for count in places.values())


def test_a_single_image_keeps_its_question(ten_pictures: Source) -> None:
    row = ten_pictures.rows("train")[1]
    composed = SingleImage().compose(row, [], ten_pictures.open, random.Random(0))
    assert composed.prompt == "<image>\nWhat is shown?"
    assert composed.target == 0
    assert composed.regions[0].box == (0, 0, 30, 90)
