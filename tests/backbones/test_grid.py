"""The token grid by hand."""

import pytest
import torch

from lookright.backbones.grid import GridMap, interval_coverage
from lookright.types import Box
from tests.compare import assert_close


def make_map(size: tuple[int, int], aspect: str, side: int = 8, cells: int = 4) -> GridMap:
    """A picture whose longer (pad) or shorter (crop) side fills the model input, centred."""
    scale = side / (max(size) if aspect == "pad" else min(size))
    offset_x, offset_y = ((side - extent * scale) / 2 for extent in size)
    return GridMap(side=side, cells=cells, scale=scale, offset_x=offset_x, offset_y=offset_y, size=size)


def test_interval_by_hand() -> None:
    """Four cells of 2: [1, 5) covers half of the first, all of the second and half of the third."""
    assert interval_coverage(1, 5, 4, 8.0).tolist() == [0.5, 1, 0.5, 0]
    assert interval_coverage(-3, 0.5, 4, 8.0).tolist() == [0.25, 0, 0, 0]
    assert interval_coverage(7, 99, 4, 8.0).tolist() == [0, 0, 0, 0.5]
    assert interval_coverage(3, 3, 4, 8.0).tolist() == [0, 0, 0, 0]


def test_a_square_picture_by_hand() -> None:
    """8 x 8 pixels are the model input itself; a box of 3 x 2 pixels at (1, 4)."""
    found = make_map((8, 8), "pad").coverage((1, 4, 4, 6)).reshape(4, 4)
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 0, 0]]
    assert found.dtype == torch.float32


def test_a_padded_landscape_by_hand() -> None:
    """16 x 6 pixels at half scale: 8 x 3 in rows 2.5 to 5.5, so the middle rows of cells are covered to 3/4."""
    found = make_map((16, 6), "pad").coverage((0, 0, 16, 6)).reshape(4, 4)
    assert found.tolist() == [[0] * 4, [0.75] * 4, [0.75] * 4, [0] * 4]
    right_end = make_map((16, 6), "pad").coverage((12, 0, 16, 3)).reshape(4, 4)
    assert right_end.tolist() == [[0] * 4, [0, 0, 0, 0.75], [0] * 4, [0] * 4]


def test_a_padded_portrait_is_the_landscape_turned() -> None:
    landscape = make_map((16, 6), "pad").coverage((3, 1, 11, 4)).reshape(4, 4)
    portrait = make_map((6, 16), "pad").coverage((1, 3, 4, 11)).reshape(4, 4)
    assert torch.equal(landscape.T, portrait)


def test_a_cropped_landscape_by_hand() -> None:
    """16 x 8 pixels at full scale: 4 pixels fall off at each side and no token sees them."""
    grid = make_map((16, 8), "crop")
    assert grid.coverage((0, 0, 16, 8)).tolist() == [1.0] * 16
    assert not grid.coverage((0, 0, 4, 8)).any()
    assert grid.coverage((4, 0, 5, 2)).tolist() == [0.5] + [0.0] * 15


@pytest.mark.parametrize("aspect", ["pad", "crop"])
@pytest.mark.parametrize("size", [(8, 8), (100, 37), (37, 100), (640, 480), (333, 1000), (5, 5)])
def test_covers_of_disjoint_boxes_add_up(size: tuple[int, int], aspect: str) -> None:
    """Of a picture cut in uneven quarters; and the whole weighs as much as the part of the input it fills."""
    grid = make_map(size, aspect, side=336, cells=24)
    (width, height), x, y = size, size[0] * 0.3, size[1] * 0.61
    boxes: list[Box] = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    whole = grid.coverage((0, 0, width, height))
    assert_close(sum(grid.coverage(box) for box in boxes), whole, atol=1e-5, why="float32")
    filled = min(width, height) / max(width, height) if aspect == "pad" else 1.0
    assert_close(whole.mean(), torch.tensor(filled), atol=1e-5, why="float32")


@pytest.mark.parametrize("aspect", ["pad", "crop"])
@pytest.mark.parametrize("size", [(8, 8), (100, 37), (37, 100), (640, 480), (7, 300), (300, 100)])
def test_footprints_are_the_inverse_of_coverage(size: tuple[int, int], aspect: str) -> None:
    """A token's footprint covers all of that token that the picture covers, and nothing of any other."""
    grid = make_map(size, aspect, side=84, cells=6)
    whole = grid.coverage((0, 0, *size))
    for number, seen in enumerate(grid.footprints()):
        if seen is None:
            # a picture may begin at the edge of a token up to rounding
            assert whole[number] < 1e-6
            continue
        box = seen.box
        assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
        found = grid.coverage(box)
        assert seen.share == pytest.approx(float(whole[number]), abs=1e-5)
        # 6 x 6 equal tokens over the square that the longer (pad) or the shorter (crop) side fills
        assert seen.own_area == pytest.approx(((max if aspect == "pad" else min)(size) / 6) ** 2)
        assert found[number] == pytest.approx(float(whole[number]), abs=1e-5) and whole[number] > 0
        found[number] = 0
        assert found.max() < 1e-5
