"""Pictures inside a page: scaled down, embedded, plain or under heat maps, with the regions drawn over them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lookright.common.pictures import as_rgb
from lookright.errors import RecordError
from lookright.records.pictures import Pictures
from lookright.reports.heat import HeatValues, css_gradient, heat_levels, heat_peak, overlay
from lookright.types import Box, Preference, Prompt

LONGEST_SIDE = 480
"""Pixels of an embedded picture; a report of 24 examples stays within a few megabytes."""


@dataclass(slots=True, frozen=True, kw_only=True)
class ShownRegion:
    """A box to draw, in pixels of the picture."""

    x: float
    y: float
    width: float
    height: float
    is_target: bool


@dataclass(slots=True, frozen=True, kw_only=True)
class ShownPicture:
    """A picture of `width` x `height` pixels as a data address, None where it cannot be opened, and what is on it."""

    name: str
    label: str
    uri: str | None = None
    width: int = 0
    height: int = 0
    regions: list[ShownRegion] = field(default_factory=list)
    caption: str = ""
    is_target: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class PictureRow:
    """The pictures of a prompt side by side; `title` is the model's name where they are under heat maps."""

    pictures: list[ShownPicture]
    title: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class HeatRows:
    """Rows of pictures under heat maps, one a model, on the one scale from 0 to `peak` even spreads."""

    rows: list[PictureRow]
    peak: float

    @property
    def gradient(self) -> str:
        """The colours from 0 to the peak, as a style."""
        return f"background: {css_gradient()}"


def prompt_pictures(prompt: Prompt | Preference, pictures: Pictures) -> PictureRow:
    """All pictures of a prompt with its regions; a picture that cannot be opened is named in its place."""
    return _row(prompt, [open_picture(pictures, name) for name in prompt.images])


def heat_pictures(prompt: Prompt, pictures: Pictures, heat: Mapping[str, Sequence[HeatValues]]) -> HeatRows:
    """The same under heat maps, for each model by name; `heat` has one list of (footprint, attention) a picture.

    All models share the scale. Each map is in multiples of its model's own even spread, so that colours compare
    where the models look, not how much they look at pictures at all.
    """
    opened = [open_picture(pictures, name) for name in prompt.images]
    maps = {name: _levels(opened, values) for name, values in heat.items()}
    peak = heat_peak([level for levels in maps.values() for level in levels if level is not None])
    rows = []
    for name, levels in maps.items():
        drawn = [
            None if image is None or level is None else overlay(image, level, peak)
            for image, level in zip(opened, levels, strict=True)
        ]
        rows.append(_row(prompt, opened, drawn, name))
    return HeatRows(rows=rows, peak=peak)


def data_uri(image: Image.Image, longest: int = LONGEST_SIDE) -> str:
    """JPEG of at most `longest` pixels a side, on white where it is transparent, as a data address."""
    shown = as_rgb(image)
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def open_picture(pictures: Pictures, name: str) -> Image.Image | None:
    """The picture as models see it, or None: a report never fails for one picture."""
    try:
        return pictures.open(name)
    except RecordError:
        return None


def _row(
    prompt: Prompt | Preference,
    opened: Sequence[Image.Image | None],
    drawn: Sequence[Image.Image | None] | None = None,
    title: str = "",
) -> PictureRow:
    """`opened` has the pictures' own sizes, in which regions are given; `drawn` is shown in their place."""
    shown = [
        _shown(prompt, number, image, replacement)
        for number, (image, replacement) in enumerate(zip(opened, drawn or opened, strict=True))
    ]
    return PictureRow(pictures=shown, title=title)


def _shown(
    prompt: Prompt | Preference, number: int, image: Image.Image | None, drawn: Image.Image | None
) -> ShownPicture:
    regions = [(region, place == prompt.target) for place, region in enumerate(prompt.regions or [])]
    mine = [(region.box, is_target) for region, is_target in regions if region.picture == number]
    is_target = any(chosen for _, chosen in mine)
    several = len(prompt.images) > 1
    name = prompt.images[number]
    return ShownPicture(
        name=name,
        label=f"Picture {number + 1}",
        uri=None if drawn is None else data_uri(drawn),
        width=0 if image is None else image.width,
        height=0 if image is None else image.height,
        # faint boxes first: the target's outline lies on top of a background that holds it
        regions=[]
        if image is None
        else [_region(box, chosen, image) for box, chosen in sorted(mine, key=lambda pair: pair[1])],
        caption=f"Image{number + 1}{' (target)' if is_target else ''}" if several else "",
        is_target=is_target and several,
    )


def _region(box: Box, is_target: bool, image: Image.Image) -> ShownRegion:
    # a line on the very edge would be cut in half
    inset = 0.008 * max(image.size)
    left, top = max(box[0], inset), max(box[1], inset)
    right, bottom = min(box[2], image.width - inset), min(box[3], image.height - inset)
    return ShownRegion(x=left, y=top, width=max(right - left, 0.0), height=max(bottom - top, 0.0), is_target=is_target)


def _levels(opened: Sequence[Image.Image | None], heat: Sequence[HeatValues]) -> list[np.ndarray | None]:
    """Maps of the pictures that could be opened, None in the place of the others."""
    there = [(image.size, values) for image, values in zip(opened, heat, strict=True) if image is not None]
    found = iter(heat_levels(there))
    return [None if image is None else next(found) for image in opened]
