"""Where source images lie in a picture that shows several, for composers and for rows without geometry."""

import math
from dataclasses import dataclass

from lookright.types import Box, Size

GRIDS = {2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns for each number of images."""


@dataclass(slots=True, frozen=True, kw_only=True)
class GridLayout:
    """Pixels of a collage: `count` square cells of `cell_size`, the layout of the pairs that MIA-DPO released.

    `margin` lies between columns and, as the strip that holds the labels, above every row; the cells
    touch the left, right and lower edge of the picture.
    """

    count: int
    cell_size: int
    margin: int

    @property
    def size(self) -> Size:
        """Width and height of the whole picture."""
        rows, columns = GRIDS[self.count]
        step = self.cell_size + self.margin
        return columns * step - self.margin, rows * step

    def cell(self, number: int) -> tuple[int, int, int, int]:
        """Box of cell `number` (0-based, line by line)."""
        row, column = divmod(number, GRIDS[self.count][1])
        step = self.cell_size + self.margin
        left, top = column * step, row * step + self.margin
        return left, top, left + self.cell_size, top + self.cell_size

    def strip(self, number: int) -> tuple[int, int, int, int]:
        """Box above cell `number` that holds its label."""
        left, top, right, _ = self.cell(number)
        return left, top - self.margin, right, top

    def place(self, number: int, size: Size) -> tuple[int, int, int, int]:
        """Box of a picture of `size`, not larger than the cell, at the top left of cell `number`."""
        left, top, _, _ = self.cell(number)
        return left, top, left + size[0], top + size[1]


def inset_box(background: Size, inset: Size, share: float) -> Box:
    """Box of an inset of that size, scaled to `share` of the background and centred; odd rests go right and below."""
    bounds = tuple(max(1, math.floor(side * share + 1e-9)) for side in background)
    width, height = fit_within(inset, (bounds[0], bounds[1]))
    left, top = (background[0] - width) // 2, (background[1] - height) // 2
    return left, top, left + width, top + height


def fit_within(size: Size, bounds: Size) -> Size:
    """Largest size in whole pixels within `bounds` that keeps the aspect of `size`, to a rounding; never below 1."""
    scale = min(bounds[0] / size[0], bounds[1] / size[1])
    width, height = (min(bound, max(1, round(side * scale))) for side, bound in zip(size, bounds, strict=True))
    return width, height
