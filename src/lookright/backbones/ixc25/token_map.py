"""Which pixels a token of XComposer2.5 sees: overview and tiles, through resize and padding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lookright.backbones.base import TokenMap
from lookright.backbones.grid import Span, axis_spans, grid_footprints, interval_coverage
from lookright.backbones.ixc25.image_transform import TilePlan
from lookright.types import Box, Footprint


@dataclass(slots=True, frozen=True, kw_only=True)
class TileMap(TokenMap):
    """Tokens in the model's order: overview rows, one separator, rows of the tile grid.

    Every grid row ends in a separator. `side`: tokens along one side of a tile. A token's own area is
    its cell of the canvas (the overview's cells stretch over the whole canvas), padding included.
    """

    plan: TilePlan
    side: int

    @property
    def num_tokens(self) -> int:  # type: ignore[override]  # nobody writes it
        """Overview, separators and tiles."""
        return self.plan.num_tokens(self.side)

    def coverage(self, box: Box) -> Tensor:
        """See TokenMap.coverage: float32[num_tokens]; what a box reaches beyond the picture counts nothing."""
        overview, tiles = (self._shares(box, rows, columns) for rows, columns in self._grids())
        return torch.cat([overview, overview.new_zeros(1), tiles]).float()

    def footprints(self) -> list[Footprint | None]:
        """See TokenMap.footprints; a place has two tokens, one of the overview and one of a tile."""
        overview, tiles = (self._footprints(rows, columns) for rows, columns in self._grids())
        return [*overview, None, *tiles]

    def _grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the overview and of the tile grid."""
        plan = self.plan
        return (self.side, self.side), (plan.tiles_down * self.side, plan.tiles_across * self.side)

    def _shares(self, box: Box, rows: int, columns: int) -> Tensor:
        """Shares of a grid over the canvas with a separator of share 0 after every row: [rows * (columns + 1)]."""
        across = self._axis_shares(box[0], box[2], axis=0, cells=columns)
        down = self._axis_shares(box[1], box[3], axis=1, cells=rows)
        return torch.nn.functional.pad(torch.outer(down, across), (0, 1)).flatten()

    def _footprints(self, rows: int, columns: int) -> list[Footprint | None]:
        """Footprints of a grid over the canvas with None after every row."""
        across, down = self._axis_spans(axis=0, cells=columns), self._axis_spans(axis=1, cells=rows)
        return grid_footprints([*across, None], down)

    def _axis_shares(self, low: float, high: float, *, axis: int, cells: int) -> Tensor:
        """Share of each cell along one axis (0 across, 1 down) that [low, high) of the picture covers."""
        extent, scale, offset = self._axis(axis)
        start, stop = (min(max(edge, 0.0), extent) * scale + offset for edge in (low, high))
        return interval_coverage(start, stop, cells, self.plan.canvas[axis])

    def _axis_spans(self, *, axis: int, cells: int) -> list[Span | None]:
        """Where each cell along one axis lies in the picture, None for padding alone."""
        extent, scale, offset = self._axis(axis)
        return axis_spans(cells, self.plan.canvas[axis], scale, offset, extent)

    def _axis(self, axis: int) -> tuple[int, float, int]:
        """Along one axis: the picture's pixels, canvas pixels for each of them, canvas pixels before the first."""
        plan = self.plan
        return plan.size[axis], plan.resized[axis] / plan.size[axis], (plan.left, plan.top)[axis]
