"""A prompt's pictures as one image, plain and under heat maps, for where a page cannot go."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from lookright.common.pictures import as_rgb
from lookright.records.pictures import Pictures
from lookright.reports.heat import HeatValues, heat_levels, heat_peak, overlay
from lookright.types import Preference, Prompt

LONGEST_SIDE = 240
"""Pixels of one picture's longer side."""
GAP = 8
TARGET, COMPANION = (194, 65, 12), (100, 116, 139)
"""Outlines of the target and of the other source images, as on the pages."""


def heat_strip(prompt: Prompt | Preference, pictures: Pictures, heat: Sequence[HeatValues]) -> Image.Image:
    """All pictures side by side with their regions, and below each itself under its heat map.

    `heat` has (footprint, attention) of each picture's tokens. Raises RecordError for a picture that broke.
    """
    opened = [pictures.open(name) for name in prompt.images]
    levels = heat_levels([(one.size, values) for one, values in zip(opened, heat, strict=True)], LONGEST_SIDE)
    peak = heat_peak(levels)
    maps = [overlay(one, level, peak) for one, level in zip(opened, levels, strict=True)]
    plain = [
        _outlined(one, prompt, number, shown.size) for number, (one, shown) in enumerate(zip(opened, maps, strict=True))
    ]
    height = max(one.height for one in maps)
    strip = Image.new("RGB", (sum(one.width + GAP for one in maps) - GAP, 2 * height + GAP), "white")
    left = 0
    for upper, lower in zip(plain, maps, strict=True):
        strip.paste(upper, (left, 0))
        strip.paste(lower, (left, height + GAP))
        left += upper.width + GAP
    return strip


def _outlined(picture: Image.Image, prompt: Prompt | Preference, number: int, size: tuple[int, int]) -> Image.Image:
    """One picture at a size, with the outlines of its regions; the target's lies on top."""
    shown = as_rgb(picture).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(shown)
    across, down = size[0] / picture.width, size[1] / picture.height
    mine = [
        (place == prompt.target, one.box) for place, one in enumerate(prompt.regions or []) if one.picture == number
    ]
    for is_target, (left, top, right, bottom) in sorted(mine):
        # x1 and y1 are exclusive, and PIL's corners are not
        corners = (left * across, top * down, right * across - 1, bottom * down - 1)
        draw.rectangle(corners, outline=TARGET if is_target else COMPANION, width=3 if is_target else 1)
    return shown
