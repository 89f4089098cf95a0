import random

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFont

from lookright.common.layouts import GRIDS, GridLayout
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.sources.base import Source
from lookright.errors import ConfigError
from lookright.types import SourceRow

WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("count", "size", "last_cell"),
    [
        (2, (936, 488), (488, 40, 936, 488)),
        (3, (1424, 488), (976, 40, 1424, 488)),
        (4, (936, 976), (488, 528, 936, 976)),
        (6, (1424, 976), (976, 528, 1424, 976)),
        (9, (1424, 1464), (976, 1016, 1424, 1464)),
    ],
)
def test_the_released_layouts(count: int, size: tuple[int, int], last_cell: tuple[int, int, int, int]) -> None:
    """By hand: c columns of 448 with c - 1 gaps of 40, r rows of 448 with r strips of 40; no margin around them."""
    composer = GridCollage()
    layout = GridLayout(count=count, cell_size=composer.cell_size, margin=composer.margin)
    assert layout.size == size
    assert layout.cell(0) == (0, 40, 448, 488)
    assert layout.cell(count - 1) == last_cell


def test_cells_go_line_by_line() -> None:
    layout = GridLayout(count=6, cell_size=100, margin=10)
    assert [layout.cell(n)[:2] for n in range(6)] == [(0, 10), (110, 10), (220, 10), (0, 120), (110, 120), (220, 120)]
    assert layout.strip(4) == (110, 110, 210, 120)


def test_regions_are_the_pictures_without_the_white(ten_pictures: Source) -> None:
    """80 x 40 in a cell of 100 is 100 x 50; 30 x 90 is 33 x 100; both begin where their cell does."""
    rows = ten_pictures.rows("train")
    composed = GridCollage(cell_size=100, margin=10).compose(rows[0], [rows[1]], ten_pictures.open, random.Random(4))
    assert composed.prompt == f"<image>\nIn Image{composed.target + 1}, what is shown?"
    boxes = {region.source: region.box for region in composed.regions}
    wide_left, high_left = composed.target * 110, (1 - composed.target) * 110
    assert boxes[rows[0].id] == (wide_left, 10, wide_left + 100, 60)
    assert boxes[rows[1].id] == (high_left, 10, high_left + 33, 110)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9])
@pytest.mark.parametrize(("cell_size", "margin"), [(448, 40), (112, 10)])
def test_every_pixel_is_a_picture_a_label_or_white(
    ten_pictures: Source, count: int, cell_size: int, margin: int
) -> None:
    """Noise, not a plain colour, so that a shift by one pixel shows."""
    rows = ten_pictures.rows("train")[:count]
    sources = {row.id: _noise(ten_pictures.open(row).size, seed) for seed, row in enumerate(rows)}
    composer = GridCollage(cell_size=cell_size, margin=margin)
    composed = composer.compose(rows[0], rows[1:], lambda row: sources[row.id], random.Random(count))
    canvas, num_columns = composed.pictures[0], {2: 2, 3: 3, 4: 2, 6: 3, 9: 3}[count]
    assert canvas.size == GridLayout(count=count, cell_size=cell_size, margin=margin).size
    assert sorted(region.source for region in composed.regions) == sorted(row.id for row in rows)
    for number, region in enumerate(composed.regions):
        left = number % num_columns * (cell_size + margin)
        top = number // num_columns * (cell_size + margin) + margin
        source = sources[region.source]
        scale = cell_size / max(source.size)
        width, height = round(source.width * scale), round(source.height * scale)
        assert (region.picture, region.box) == (0, (left, top, left + width, top + height))
        expected = source.resize((width, height), Image.Resampling.BICUBIC)
        assert canvas.crop(region.box).tobytes() == expected.tobytes()
        canvas.paste(WHITE, region.box)
        canvas.paste(WHITE, (left, top - margin, left + cell_size, top))
    assert canvas.getcolors() == [(canvas.width * canvas.height, WHITE)]


@pytest.mark.parametrize(("cell_size", "margin"), [(448, 40), (112, 10), (64, 12), (24, 12), (16, 8)])
@pytest.mark.parametrize("count", [2, 9])
def test_labels_are_read_above_their_cell(ten_pictures: Source, cell_size: int, margin: int, count: int) -> None:
    rows = ten_pictures.rows("train")[:count]
    composer = GridCollage(cell_size=cell_size, margin=margin)
    canvas = composer.compose(rows[0], rows[1:], ten_pictures.open, random.Random(0)).pictures[0].convert("L")
    layout = GridLayout(count=count, cell_size=cell_size, margin=margin)
    for number in range(count):
        strip = canvas.crop(layout.strip(number))
        ink = ImageChops.invert(strip).getbbox()
        assert ink is not None, "no label"
        assert ink[1] > 0 and ink[3] < margin, "the label touches a cell"
        assert ink[0] <= margin // 2 + margin // 8, "the label is not at the left"
        wide = Image.new("L", (12 * margin, margin), 255)
        font = ImageFont.load_default(round(0.7 * margin))
        ImageDraw.Draw(wide).text((margin // 2, margin / 2), f"Image{number + 1}", fill=0, font=font, anchor="lm")
        if cell_size >= 4 * margin:
            assert strip.tobytes() == wide.crop((0, 0, cell_size, margin)).tobytes(), "the label reads otherwise"
        else:
            drawn = ink[2] - ink[0]
            whole = ImageChops.invert(wide).getbbox()
            assert 0.6 * (whole[2] - whole[0]) <= drawn <= cell_size, "the label is cut off"


@pytest.mark.parametrize("seed", range(40))
def test_regions_are_what_was_painted(seed: int) -> None:
    """Colours that no label has: the pixels of a colour are exactly its region, whatever the sizes."""
    rng = random.Random(seed)
    count, cell_size = rng.choice(sorted(GRIDS)), rng.randint(20, 120)
    sizes = [(rng.randint(1, 300), rng.randint(1, 300)) for _ in range(count)]
    rows = [SourceRow(id=str(n), picture=str(n), question="What?", answer="a") for n in range(count)]
    colours = {row.id: (250, 10 + 20 * n, 128) for n, row in enumerate(rows)}
    composed = GridCollage(cell_size=cell_size, margin=10).compose(
        rows[0], rows[1:], lambda row: Image.new("RGB", sizes[int(row.id)], colours[row.id]), random.Random(seed)
    )
    pixels = np.asarray(composed.pictures[0])
    layout = GridLayout(count=count, cell_size=cell_size, margin=10)
    assert composed.regions[composed.target].source == "0"
    for number, region in enumerate(composed.regions):
        ys, xs = np.nonzero((pixels == colours[region.source]).all(axis=-1))
        assert region.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert region.box[:2] == layout.cell(number)[:2]
        width, height = region.box[2] - region.box[0], region.box[3] - region.box[1]
        assert len(xs) == width * height and max(width, height) == cell_size


def test_sizes_too_small_for_a_label_are_refused() -> None:
    with pytest.raises(ConfigError, match="composers.grid_collage.margin=4"):
        GridCollage(margin=4)
    with pytest.raises(ConfigError, match="composers.grid_collage.cell_size=50"):
        GridCollage(cell_size=50)


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    rng = random.Random(seed)
    return Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
