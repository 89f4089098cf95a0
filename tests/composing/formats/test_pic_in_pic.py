import random
from collections import Counter

import pytest
from PIL import Image

from lookright.common.layouts import inset_box
from lookright.composing.formats.pic_in_pic import PHRASES, PicInPic
from lookright.composing.sources.base import Source
from lookright.errors import ConfigError
from lookright.types import Box, Size


@pytest.mark.parametrize(
    ("background", "inset", "box"),
    [
        ((100, 100), (50, 50), (15, 15, 85, 85)),
        ((90, 90), (28, 28), (13, 13, 76, 76)),  # 0.7 * 90 is 63, not the 62.99... of floating point
        ((101, 77), (50, 50), (24, 12, 77, 65)),  # 70.7 x 53.9 -> 70 x 53; the square is 53; rests 48 and 24
        ((640, 480), (1000, 200), (96, 195, 544, 285)),  # 448 wide, 89.6 -> 90 high
        ((480, 640), (10, 40), (184, 96, 296, 544)),  # 448 high, 112 wide
        ((28, 28), (28, 28), (4, 4, 23, 23)),  # 19.6 -> 19, rest 9
        ((2, 2), (50, 1), (0, 0, 1, 1)),
    ],
)
def test_the_inset_fits_in_seventy_percent_and_is_centred(background: Size, inset: Size, box: Box) -> None:
    assert inset_box(background, inset, 0.7) == box


def test_pixels_and_regions(ten_pictures: Source) -> None:
    """Background 80 x 40, bounds 56 x 28; a target of 30 x 90 becomes 9 x 28 at (35, 6)."""
    rows = ten_pictures.rows("train")
    composed = PicInPic().compose(rows[1], [rows[0]], ten_pictures.open, random.Random(0))
    canvas = composed.pictures[0]
    assert [region.box for region in composed.regions] == [(0, 0, 80, 40), (35, 6, 44, 34)]
    assert [region.source for region in composed.regions] == [rows[0].id, rows[1].id]
    assert composed.target == 1
    inside = canvas.crop((35, 6, 44, 34))
    assert inside.getcolors() == [(9 * 28, ten_pictures.colour(rows[1]))]
    canvas.paste(ten_pictures.colour(rows[0]), (35, 6, 44, 34))
    assert canvas.getcolors() == [(80 * 40, ten_pictures.colour(rows[0]))]


def test_inset_pixels_are_the_resized_source(ten_pictures: Source) -> None:
    rows = ten_pictures.rows("train")
    noise = Image.frombytes("RGB", (33, 21), random.Random(1).randbytes(3 * 33 * 21))
    pictures = {rows[0].id: Image.new("RGB", (101, 77)), rows[1].id: noise}
    composed = PicInPic().compose(rows[1], [rows[0]], lambda row: pictures[row.id], random.Random(0))
    x0, y0, x1, y1 = composed.regions[1].box
    expected = noise.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
    assert composed.pictures[0].crop((x0, y0, x1, y1)).tobytes() == expected.tobytes()
    assert pictures[rows[0].id].getcolors() == [(101 * 77, (0, 0, 0))], "the source's own picture was painted over"


def test_phrases_are_many_and_all_drawn(ten_pictures: Source) -> None:
    rows = ten_pictures.rows("train")
    assert len(set(PHRASES)) >= 8
    rng = random.Random(2)
    prompts = Counter(PicInPic().compose(rows[0], [rows[1]], ten_pictures.open, rng).prompt for _ in range(300))
    assert set(prompts) == {f"<image>\n{phrase}, what is shown?" for phrase in PHRASES}


def test_a_small_background_can_be_enlarged(ten_pictures: Source) -> None:
    """7 x 5 with a shorter side of 50 is 70 x 50."""
    rows = ten_pictures.rows("train")
    composed = PicInPic(min_side=50).compose(rows[2], [rows[3]], ten_pictures.open, random.Random(0))
    assert composed.pictures[0].size == (70, 50)
    assert composed.regions[1].box == (17, 7, 52, 42)


def test_shares_outside_of_zero_and_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="composers.pic_in_pic.inset_share=70"):
        PicInPic(inset_share=70)
