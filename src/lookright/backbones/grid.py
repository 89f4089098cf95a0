"""From a pixel box to the cells of a regular token grid, through an affine resize."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lookright.backbones.base import TokenMap
from lookright.types import Box, Size


def interval_coverage(low: float, high: float, num_cells: int, extent: float) -> Tensor:
    """Share of each of `num_cells` equal cells of [0, extent) that [low, high) covers: float64[num_cells]."""
    edges = torch.linspace(0.0, extent, num_cells + 1, dtype=torch.float64)
    covered = edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)
    return covered.clamp(min=0.0) * num_cells / extent


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
    def num_tokens(self) -> int:
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

    def footprints(self) -> list[Box | None]:
        """See TokenMap.footprints."""
        step = self.side / self.cells
        rows = [self._source(row * step, step, self.offset_y, self.size[1]) for row in range(self.cells)]
        columns = [self._source(column * step, step, self.offset_x, self.size[0]) for column in range(self.cells)]
        return [
            (column[0], row[0], column[1], row[1]) if row is not None and column is not None else None
            for row in rows
            for column in columns
        ]

    def _source(self, start: float, step: float, offset: float, extent: int) -> tuple[float, float] | None:
        """Where a cell of one axis lies in the picture."""
        low, high = ((edge - offset) / self.scale for edge in (start, start + step))
        low, high = max(0.0, low), min(float(extent), high)
        # a millionth of a pixel is rounding: the picture begins at the edge of this cell
        return (low, high) if high - low > 1e-6 else None
