"""Heat maps of one prompt as they stand in a card."""

from collections.abc import Sequence
from pathlib import Path

from lookright.reports.heat import HeatValues, css_gradient, heat_scale, overlay
from lookright.reports.markup import Html, join, tag
from lookright.reports.pictures import data_uri, open_picture, picture_figure, picture_row
from lookright.types import Prompt


def heat_pictures(
    prompt: Prompt, folder: Path, heat: Sequence[HeatValues], compared_with: Sequence[HeatValues] | None = None
) -> Html:
    """All pictures of a prompt under their heat maps, on one scale, with the colour key below.

    `heat` has one list of (pixel box, attention) for each picture; so has `compared_with`, another model's
    of the same prompt, which then shares the scale. Each is taken as shares of its own sum, so that colours
    compare where the models look, not how much they look at pictures at all.
    """
    heat = _shares(heat)
    opened = [open_picture(folder / name) for name in prompt.images]
    both = [heat] if compared_with is None else [heat, _shares(compared_with)]
    scale = heat_scale(
        [(image.size, values) for each in both for image, values in zip(opened, each, strict=True) if image is not None]
    )
    figures = []
    for index, (image, values) in enumerate(zip(opened, heat, strict=True)):
        if image is None:
            shown = tag("div", f"cannot open {prompt.images[index]}", class_="missing")
        else:
            places = [place for place, region in enumerate(prompt.regions) if region.picture == index]
            target = places.index(prompt.target) if prompt.target in places else None
            boxes = [prompt.regions[place].box for place in places]
            drawn = overlay(image, values, boxes, target=target, scale=scale, bar=False)
            shown = tag("img", src=data_uri(drawn), alt=f"Attention over picture {index + 1}")
        figures.append(picture_figure(prompt, index, shown))
    key = tag("div", "0", tag("i", "", style=css_gradient()), f"{scale.label} an even spread", class_="bar")
    return join([picture_row(figures), key])


def _shares(heat: Sequence[HeatValues]) -> list[HeatValues]:
    total = sum(weight for values in heat for _, weight in values) or 1.0
    return [[(box, weight / total) for box, weight in values] for values in heat]
