"""Geometry of rows that store none, inferred once, as far as prompt and pictures tell it, and marked as inferred."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lookright.common.layouts import GRIDS, GridLayout, inset_box
from lookright.records.pictures import MeasuredPictures
from lookright.types import IMAGE_PLACEHOLDER, Region, Size

INFERRED = {"geometry": "inferred"}
CELL_SIZE, MARGIN, INSET_SHARE = 448, 40, 0.7
"""Layout of the published data."""
WHITE_LEVEL, WHITE_SHARE = 240, 0.99
"""A line is white where so many of its pixels reach the level: JPEG leaves rings around an edge. Over pictures of
known size at qualities 75 to 90 the edge is found 1 pixel off on the average, 7 at most."""

_PLACEHOLDER = re.compile(rf"(?:\bImage\s?\d+\s*:\s*)?{IMAGE_PLACEHOLDER}", re.IGNORECASE)
_LABELLED = re.compile(rf"\bImage\s?1\s*:\s*{IMAGE_PLACEHOLDER}", re.IGNORECASE)
_LEAD = r"(?:in|for|on|of|from|regarding|concerning|considering|about|as (?:for|to)|looking (?:only )?at)"
_DIGITS = r"(\d{1,9})"
_OPENING_NUMBER = re.compile(rf"(?:{_LEAD} (?:the )?image\s?#?{_DIGITS}\b|image\s?#?{_DIGITS}\s*[,:])", re.IGNORECASE)
_NUMBER = re.compile(rf"\bin (?:the )?image\s?#?{_DIGITS}\b", re.IGNORECASE)

_PICTURE = r"(?:image|picture|photo|photograph|illustration|screenshot)"
_CENTRE = r"(?:in|at|within) the (?:very |exact )?(?:cent(?:er|re)|middle)"
_PLACED = r"(?: (?:that is|which is|placed|located|positioned|situated|pasted|shown|embedded))*"
_INSET = re.compile(
    rf"\b(?:inset|sub-?(?:plot|image|picture|figure|photo)|picture[- ]in[- ]picture)\b"
    rf"|\b(?:central|cent(?:er|re)|centrally placed|cent(?:er|re)d|middle|inner|innermost|embedded|nested) {_PICTURE}\b"
    rf"|\b{_PICTURE}{_PLACED} {_CENTRE}\b"
)
_CLAUSE = re.compile(
    r"(?:in|for|on|from|within|about|regarding|concerning|considering|given|as (?:for|to|regards)|based on"
    r"|with (?:regard|respect|reference) to|in (?:regard|relation|reference) to|(?:when )?(?:looking|focusing|focused)"
    r" (?:only |solely |just )?(?:at|on|in)|referring to|turning to|speaking of|when it comes to|focus on|look at)\b"
)
_ASIDE = re.compile(r"\b(?:top|bottom|left|right|upper|lower|corner|side|edge)\b")
_CLAUSE_WORDS = 14


@dataclass(slots=True, frozen=True, kw_only=True)
class Geometry:
    """`target` and `regions` are None where neither prompt nor pictures tell them."""

    format: str
    target: int | None = None
    regions: list[Region] | None = None


def infer_geometry(prompt: str, names: list[str], pictures: MeasuredPictures) -> Geometry | None:
    """Format, target and regions from the prompt's text, the number of pictures, their sizes and their white.

    - several pictures: `sequence`, the target is the one that the text names ("In Image{k}", "Image {k}, ...");
    - one picture, a name in the text: `grid_collage` in the layout of exactly its size, the cell of each source
      image cut where white begins (see `picture_in_cell`); a picture labelled `Image1:` is a sequence of one;
    - one picture, an opening clause about a picture in its centre: `pic_in_pic`, an inset of 70 % in both
      directions, within which the true one lies (its aspect is unknown);
    - one picture and neither: `single_image`, all of it.

    None for a prompt whose placeholders are wrong: that is told first. Raises RecordError for a broken picture.
    """
    if prompt.count(IMAGE_PLACEHOLDER) != len(names) or not names:
        return None
    question = _without_pictures(prompt)
    number = named_in(prompt)
    if len(names) > 1:
        return _geometry("sequence", number, _whole(names, pictures))
    if number is not None:
        cells = _cells(names[0], pictures)
        if cells is None and _LABELLED.search(prompt):
            return _geometry("sequence", number, _whole(names, pictures))
        return _geometry("grid_collage", number, cells)
    if speaks_of_inset(question):
        size = pictures.size(names[0])
        boxes = ((0, 0, *size), inset_box(size, size, INSET_SHARE))
        regions = [Region(picture=0, box=box, source=names[0]) for box in boxes]
        return Geometry(format="pic_in_pic", target=1, regions=regions)
    return Geometry(format="single_image", target=0, regions=_whole(names, pictures))


def named_in(prompt: str) -> int | None:
    """`named_image` of the question in a prompt, whose labels of pictures (`Image1:<image>`) name none."""
    return named_image(_without_pictures(prompt))


def picture_marks(prompt: str) -> list[str]:
    """The placeholder of each picture of a prompt, with its label if it has one."""
    return _PLACEHOLDER.findall(prompt)


def named_image(question: str) -> int | None:
    """Number (from 1) of the image that a question is about, None where it names none or, inside, several.

    The name that opens the question counts before all others: what follows may compare it with them.
    """
    opening = _OPENING_NUMBER.match(question)
    if opening is not None:
        return int(opening[1] or opening[2])
    numbers = {int(found) for found in _NUMBER.findall(question)}
    return numbers.pop() if len(numbers) == 1 else None


def speaks_of_inset(question: str) -> bool:
    """Whether a question opens with a clause, up to its first comma or colon, about a picture in the centre.

    "Regarding the central image, ..." and "As for the subplot in the middle, ..." do; "In the center of the
    image, ..." speaks of a place in the one picture, and a plain question has no such clause.
    """
    clause = " ".join(re.split(r"[,:]", question, maxsplit=1)[0].lower().split())
    if len(clause) == len(" ".join(question.split())) or len(clause.split()) > _CLAUSE_WORDS:
        return False
    return bool(_CLAUSE.match(clause) and _INSET.search(clause) and not _ASIDE.search(clause))


def picture_in_cell(cell: Image.Image) -> Size:
    """Width and height of the picture at the top left of a cell, found by the white right of it or below it.

    A picture fills its cell in width or in height; where that is not what is found, as with a picture whose own
    edges are white, the whole cell is taken.
    """
    white_HW = np.asarray(cell).min(axis=2) >= WHITE_LEVEL
    width, height = _extent(white_HW.mean(axis=0)), _extent(white_HW.mean(axis=1))
    if (width == cell.width) == (height == cell.height):
        return cell.size
    return width, height


def _without_pictures(prompt: str) -> str:
    return _PLACEHOLDER.sub(" ", prompt).strip()


def _extent(white_share: np.ndarray) -> int:
    """Lines up to the last that is not white."""
    filled = np.flatnonzero(white_share < WHITE_SHARE)
    return int(filled[-1]) + 1 if len(filled) else 0


def _cells(name: str, pictures: MeasuredPictures) -> list[Region] | None:
    """Regions of a collage, each as large as the picture that white shows; None for a size of no layout."""
    layouts = [GridLayout(count=count, cell_size=CELL_SIZE, margin=MARGIN) for count in GRIDS]
    layout = next((layout for layout in layouts if layout.size == pictures.size(name)), None)
    if layout is None:
        return None
    cells = [layout.cell(number) for number in range(layout.count)]
    ways = [f"white {WHITE_LEVEL} {WHITE_SHARE} of {cell}" for cell in cells]
    sizes = pictures.measured(name, ways, lambda image: [picture_in_cell(image.crop(cell)) for cell in cells])
    boxes = [layout.place(number, size) for number, size in enumerate(sizes)]
    return [Region(picture=0, box=box, source=name) for box in boxes]


def _whole(names: Sequence[str], pictures: MeasuredPictures) -> list[Region]:
    return [Region(picture=n, box=(0, 0, *pictures.size(name)), source=name) for n, name in enumerate(names)]


def _geometry(name: str, number: int | None, regions: list[Region] | None) -> Geometry:
    """A named image beyond the regions stays a target out of range, for the validation to refuse."""
    if number is None or regions is None:
        return Geometry(format=name)
    return Geometry(format=name, target=number - 1, regions=regions)
