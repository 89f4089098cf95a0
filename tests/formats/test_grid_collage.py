import random

import pytest
from PIL import Image, ImageDraw, ImageFont

from lookright.errors import ConfigError
from lookright.formats.grid_collage import GridCollage, GridLayout
from lookright.sources.base import Source

WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("count", "size", "last_cell"),
    [
        (2, (1016, 528), (528, 40, 976, 488)),
        (3, (1504, 528), (1016, 40, 1464, 488)),
        (4, (1016, 1016), (528, 528, 976, 976)),
        (6, (1504, 1016), (1016, 528, 1464, 976)),
        (9, (1504, 1504), (1016, 1016, 1464, 1464)),
    ],
)
def test_layouts_at_full_size(count: int, size: tuple[int, int], last_cell: tuple[int, int, int, int]) -> None:
    """By hand: n cells of 448 and n + 1 margins of 40 in each direction."""
    layout = GridLayout(count=count, cell_size=448, margin=40)
    assert layout.size == size
    assert layout.cell(0) == (40, 40, 488, 488)
    assert layout.cell(count - 1) == last_cell


def test_cells_go_line_by_line() -> None:
    layout = GridLayout(count=6, cell_size=100, margin=10)
    assert [layout.cell(n)[:2] for n in range(6)] == [(10, 10), (120, 10), (230, 10), (10, 120), (120, 120), (230, 120)]


def test_regions_are_the_pictures_inside_the_white(ten_pictures: Source) -> None:
    """80 x 40 in a cell of 100 is 100 x 50 with 25 above; 30 x 90 is 33 x 100 with 33 (rounded down) left."""
    rows = ten_pictures.rows("train")
    composed = GridCollage(cell_size=100, margin=10).compose(rows[0], [rows[1]], ten_pictures.open, random.Random(4))
    assert composed.prompt == f"<image>\nIn Image{composed.target + 1}, what is shown?"
    boxes = {region.source: region.box for region in composed.regions}
    wide_left = composed.target * 110 + 10
    high_left = (1 - composed.target) * 110 + 10
    assert boxes[rows[0].id] == (wide_left, 35, wide_left + 100, 85)
    assert boxes[rows[1].id] == (high_left + 33, 10, high_left + 66, 110)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9])
def test_pixels_of_a_region_are_the_resized_source(ten_pictures: Source, count: int) -> None:
    """A gradient, not a plain colour, so that a shift by one pixel shows; outside of boxes and labels all is white."""
    rows = ten_pictures.rows("train")[:count]
    sources = {row.picture: _gradient(ten_pictures.open(row).size, seed) for seed, row in enumerate(rows)}
    composed = GridCollage().compose(rows[0], rows[1:], lambda row: sources[row.picture], random.Random(count))
    canvas = composed.pictures[0]
    by_id = {row.id: sources[row.picture] for row in rows}
    for number, region in enumerate(composed.regions):
        x0, y0, x1, y1 = map(int, region.box)
        expected = by_id[region.source].resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
        assert canvas.crop((x0, y0, x1, y1)).tobytes() == expected.tobytes()
        canvas.paste(WHITE, (x0, y0, x1, y1))
        left, top, right, _ = GridLayout(count=count, cell_size=448, margin=40).cell(number)
        canvas.paste(WHITE, (left, top - 40, right, top))
    assert canvas.getcolors() == [(canvas.width * canvas.height, WHITE)]


@pytest.mark.parametrize(("cell_size", "margin"), [(448, 40), (64, 12), (16, 8)])
def test_labels_lie_in_the_margin_above_their_cell(ten_pictures: Source, cell_size: int, margin: int) -> None:
    rows = ten_pictures.rows("train")[:4]
    canvas = GridCollage(cell_size=cell_size, margin=margin).compose(
        rows[0], rows[1:], ten_pictures.open, random.Random(0)
    )
    layout = GridLayout(count=4, cell_size=cell_size, margin=margin)
    for number in range(4):
        left, top, right, _ = layout.cell(number)
        strip = canvas.pictures[0].crop((left - margin // 2, top - margin, right + margin // 2, top)).convert("L")
        ink = strip.point(lambda value: 255 * (value < 128)).getbbox()
        assert ink is not None, "no label"
        assert ink[1] > 0, "the label touches the cell above"
        assert ink[3] < margin, "the label touches its own cell"
        assert abs((ink[0] + ink[2]) / 2 - strip.width / 2) <= 2, "the label is not centred"
        label = Image.new("L", strip.size, 255)
        font = ImageFont.load_default(round(0.7 * margin))
        centre = (cell_size / 2 + margin // 2, margin / 2)
        ImageDraw.Draw(label).text(centre, f"Image{number + 1}", fill=0, font=font, anchor="mm")
        assert strip.tobytes() == label.tobytes(), "the label reads otherwise"


def test_sizes_too_small_for_a_label_are_refused() -> None:
    with pytest.raises(ConfigError, match="formats.grid_collage.margin=4"):
        GridCollage(margin=4)
    with pytest.raises(ConfigError, match="formats.grid_collage.cell_size=50"):
        GridCollage(cell_size=50)


def _gradient(size: tuple[int, int], seed: int) -> Image.Image:
    rng = random.Random(seed)
    return Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
