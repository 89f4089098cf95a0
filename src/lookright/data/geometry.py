"""Geometry of published records that store none: inferred here, once, and marked as inferred."""

import re
from dataclasses import dataclass

from lookright.formats.grid_collage import GRIDS, GridLayout
from lookright.formats.pic_in_pic import inset_box
from lookright.types import Region, Size

INFERRED = {"geometry": "inferred"}
CELL_SIZE, MARGIN, INSET_SHARE = 448, 40, 0.7
"""Layout of the published data."""
_NAMED_IMAGE = re.compile(r"\bIn Image\s?(\d+)\b", re.IGNORECASE)


@dataclass(slots=True, frozen=True, kw_only=True)
class Geometry:
    """`regions` and `target` are None where the pictures do not tell them."""

    format: str
    target: int | None
    regions: list[Region] | None


def infer_geometry(prompt: str, names: list[str], sizes: list[Size]) -> Geometry:
    """Format, target and regions from the prompt's text, the number of pictures and their sizes.

    Several pictures: `sequence`. One picture: `grid_collage` where the text says "In Image{k}", with the
    cells of the layout that has exactly the picture's size (the white inside a cell counts in: the picture
    in it is unknown), else `pic_in_pic` with an inset of 70 % in both directions (its aspect is unknown).
    """
    named = _NAMED_IMAGE.search(prompt)
    if len(names) > 1:
        boxes = [(number, (0, 0, *size)) for number, size in enumerate(sizes)]
        return _geometry("sequence", named, [Region(picture=n, box=box, source=names[n]) for n, box in boxes])
    if named is None:
        whole, inset = (0, 0, *sizes[0]), inset_box(sizes[0], sizes[0], INSET_SHARE)
        regions = [Region(picture=0, box=box, source=names[0]) for box in (whole, inset)]
        return Geometry(format="pic_in_pic", target=1, regions=regions)
    return _geometry("grid_collage", named, _cells(names[0], sizes[0]))


def _cells(name: str, size: Size) -> list[Region] | None:
    for count in GRIDS:
        layout = GridLayout(count=count, cell_size=CELL_SIZE, margin=MARGIN)
        if layout.size == size:
            return [Region(picture=0, box=layout.cell(number), source=name) for number in range(count)]
    return None


def _geometry(name: str, named: re.Match[str] | None, regions: list[Region] | None) -> Geometry:
    """A named image beyond the regions stays a target out of range, for the validation to refuse."""
    target = int(named.group(1)) - 1 if named is not None and regions is not None else None
    return Geometry(format=name, target=target, regions=regions)
