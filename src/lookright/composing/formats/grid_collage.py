"""`grid_collage`: 2, 3, 4, 6 or 9 source images in one labelled picture."""

import math
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from PIL import Image, ImageDraw, ImageFont

from lookright.common.layouts import GRIDS, GridLayout, fit_within
from lookright.composing.formats.base import Composed, Composer, OpenPicture, lower_first, without_bounding_box
from lookright.errors import ConfigError
from lookright.types import IMAGE_PLACEHOLDER, Box, Region, SourceRow

MIN_MARGIN = 8
"""Pixels below which a label cannot be read."""
WHITE = (255, 255, 255)


class GridCollage(Composer):
    """Pictures at the top left of cells on white, a label `Image{i}` above each; layout and mixture of MIA-DPO.

    A picture fills its cell in width or height and keeps its aspect; one smaller than the cell is
    enlarged. Its region is the picture itself, without the white right of it or below it. The
    published weights of the numbers of images add up to 101 and are scaled to 1.
    """

    name = "grid_collage"
    counts = tuple(GRIDS)
    composer_version = 2
    default_mixture: ClassVar = {2: 53, 3: 16, 4: 16, 6: 8, 9: 8}
    weight = 9.3
    thresholds: ClassVar = {2: 0.7, 3: 0.6, 4: 0.5, 6: 0.4, 9: 0.3}

    def __init__(self, mixture: Mapping[int, float] | None = None, cell_size: int = 448, margin: int = 40) -> None:
        super().__init__(mixture)
        if margin < MIN_MARGIN:
            raise ConfigError(f"composers.grid_collage.margin={margin}: labels need {MIN_MARGIN} pixels or more")
        if cell_size < 2 * margin:
            raise ConfigError(
                f"composers.grid_collage.cell_size={cell_size}: labels as high as the margin need a cell of at least "
                f"twice its {margin} pixels"
            )
        self.cell_size = cell_size
        self.margin = margin

    def accepts(self, row: SourceRow) -> bool:
        """Rows without a bounding box in their text."""
        return without_bounding_box(row)

    def compose(
        self, target: SourceRow, companions: Sequence[SourceRow], open_picture: OpenPicture, rng: random.Random
    ) -> Composed:
        """One picture and `In Image{k}, {question}`."""
        rows, place = self.arrange(target, companions, rng)
        layout = GridLayout(count=len(rows), cell_size=self.cell_size, margin=self.margin)
        canvas = Image.new("RGB", layout.size, WHITE)
        boxes = [paste_cell(canvas, layout, number, open_picture(row)) for number, row in enumerate(rows)]
        return Composed(
            pictures=[canvas],
            prompt=f"{IMAGE_PLACEHOLDER}\nIn Image{place + 1}, {lower_first(target.question)}",
            target=place,
            regions=[Region(picture=0, box=box, source=row.id) for box, row in zip(boxes, rows, strict=True)],
            facts={"cell_size": self.cell_size, "margin": self.margin},
        )


def paste_cell(canvas: Image.Image, layout: GridLayout, number: int, image: Image.Image) -> Box:
    """Draw one picture with its label; returns the box of the picture."""
    size = fit_within(image.size, (layout.cell_size, layout.cell_size))
    box = layout.place(number, size)
    canvas.paste(image.resize(size, Image.Resampling.BICUBIC), box[:2])
    draw_label(canvas, layout, number)
    return box


def draw_label(canvas: Image.Image, layout: GridLayout, number: int) -> None:
    """Write `Image{i}` in the strip above a cell, half a margin from its left as released; less in a narrow cell."""
    left, top, right, bottom = layout.strip(number)
    font, width = _font(layout.margin, layout.cell_size)
    start = left + min(layout.margin // 2, (right - left - width) // 2)
    text = f"Image{number + 1}"
    ImageDraw.Draw(canvas).text((start, (top + bottom) / 2), text, fill=(0, 0, 0), font=font, anchor="lm")


@lru_cache(maxsize=8)
def _font(margin: int, cell_size: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    """PIL's own font and the pixels of its widest label.

    7/10 of the margin high, so that ascenders and descenders stay inside; less where a label is wider than
    its cell, since nothing but the next label or the edge of the picture lies beside it.
    """
    for size in range(round(0.7 * margin), 0, -1):
        font = ImageFont.load_default(size)
        width = max(math.ceil(font.getlength(f"Image{number}")) for number in range(1, max(GRIDS) + 1))
        if width <= cell_size:
            break
    return font, width
