"""Heat maps of one prompt as they stand in a card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lookright.reports.heat import HeatValues, css_gradient, heat_levels, heat_peak, overlay
from lookright.reports.markup import Html, join, tag
from lookright.reports.pictures import data_uri, open_picture, picture_figure, picture_row
from lookright.types import Prompt


def heat_pictures(
    prompt: Prompt, folder: Path, heat: Sequence[HeatValues], compared_with: Sequence[HeatValues] | None = None
) -> Html:
    """All pictures of a prompt under their heat maps, on one scale, with the colour key below.

    `heat` has one list of (footprint, attention) for each picture; so has `compared_with`, another model's of
    the same prompt, which then shares the scale. Both are multiples of their own even spread, so that colours
    compare where the models look, not how much they look at pictures at all.
    """
    opened = [open_picture(folder / name) for name in prompt.images]
    levels = _levels(opened, heat)
    compared = [] if compared_with is None else _levels(opened, compared_with)
    peak = heat_peak([part for part in (*levels, *compared) if part is not None])
    figures = []
    for index, (image, level) in enumerate(zip(opened, levels, strict=True)):
        if image is None:
            shown = tag("div", f"cannot open {prompt.images[index]}", class_="missing")
        else:
            places = [place for place, region in enumerate(prompt.regions or []) if region.picture == index]
            target = places.index(prompt.target) if prompt.target in places else None
            boxes = [prompt.regions[place].box for place in places]
            drawn = overlay(image, level, peak, boxes, target=target)
            shown = tag("img", src=data_uri(drawn), alt=f"Attention over picture {index + 1}")
        figures.append(picture_figure(prompt, index, shown))
    gradient = tag("i", "", style=f"background: {css_gradient()}")
    key = tag("div", "0", gradient, f"{peak:.1f}x an even spread", class_="bar")
    return join([picture_row(figures), key])


def _levels(opened: Sequence[Image.Image | None], heat: Sequence[HeatValues]) -> list[np.ndarray | None]:
    """Maps of the pictures that could be opened, None in the place of the others."""
    there = [(image.size, values) for image, values in zip(opened, heat, strict=True) if image is not None]
    found = iter(heat_levels(there))
    return [None if image is None else next(found) for image in opened]
