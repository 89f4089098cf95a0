"""From a pixel box to the cells of a regular token grid, through an affine resize."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lookright.backbones.base import TokenMap
from lookright.types import Box, Footprint, Size


def interval_coverage(low: float, high: float, num_cells: int, extent: float) -> Tensor:
    """Share of each of `num_cells` equal cells of [0, extent) that [low, high) covers: float64[num_cells]."""
    edges = torch.linspace(0.0, extent, num_cells + 1, dtype=torch.float64)
    covered = edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)
    return covered.clamp(min=0.0) * num_cells / extent


Span = tuple[float, float, float]
"""Along one axis: first pixel and end of what a cell sees of the picture, and the share of the cell that this is."""


def axis_spans(num_cells: int, side: float, scale: float, offset: float, extent: int) -> list[Span | None]:
    """Where each of `num_cells` equal cells of [0, side) lies in a picture of `extent` pixels, None for padding alone.

    The picture's pixel x lies at x * scale + offset. Neighbours share their edge to the last bit.
    """
    step = side / num_cells
    edges = [(cell * step - offset) / scale for cell in range(num_cells + 1)]
    spans: list[Span | None] = []
    for start, stop in pairwise(edges):
        low, high = max(0.0, start), min(float(extent), stop)
        # a millionth of a pixel is rounding: the picture begins at the edge of this cell
        spans.append((low, high, min((high - low) * scale / step, 1.0)) if high - low > 1e-6 else None)
    return spans


def grid_footprints(across: Sequence[Span | None], down: Sequence[Span | None]) -> list[Footprint | None]:
    """Footprints of a grid's cells, row by row."""
    return [
        Footprint(box=(x[0], y[0], x[1], y[1]), share=x[2] * y[2]) if x is not None and y is not None else None
        for y in down
        for x in across
    ]


@dataclass(slots=True, frozen=True, kw_only=True)
class GridMap(TokenMap):
    """A square grid of tokens over a square model input of `side` pixels, row by row.

    A picture's pixel (x, y) lies at (x * scale + offset_x, y * scale + offset_y) of the model input.
    """

    side: int
    cells: int
    scale: float
    offset_x: float
    offset_y: float
    size: Size

    @property
    def num_tokens(self) -> int:  # type: ignore[override]  # nobody writes it
        """Tokens of one picture."""
        return self.cells * self.cells

    def coverage(self, box: Box) -> Tensor:
        """See TokenMap.coverage: float32[num_tokens]."""
        x0, y0, x1, y1 = box
        across = interval_coverage(
            x0 * self.scale + self.offset_x, x1 * self.scale + self.offset_x, self.cells, self.side
        )
        down = interval_coverage(
            y0 * self.scale + self.offset_y, y1 * self.scale + self.offset_y, self.cells, self.side
        )
        return torch.outer(down, across).flatten().float()

    def footprints(self) -> list[Footprint | None]:
        """See TokenMap.footprints."""
        across, down = (
            axis_spans(self.cells, self.side, self.scale, offset, extent)
            for offset, extent in zip((self.offset_x, self.offset_y), self.size, strict=True)
        )
        return grid_footprints(across, down)
