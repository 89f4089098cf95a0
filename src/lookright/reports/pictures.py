"""Pictures inside a page: scaled down, embedded, with the regions drawn over them."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lookright.errors import RecordError
from lookright.pictures import as_rgb, decode_rgb
from lookright.reports.markup import Html, tag
from lookright.types import Prompt, Region

LONGEST_SIDE = 480
"""Pixels of an embedded picture; a report of 24 examples stays within a few megabytes."""


def data_uri(image: Image.Image, longest: int = LONGEST_SIDE) -> str:
    """JPEG of at most `longest` pixels a side, on white where it is transparent, as a data address."""
    shown = as_rgb(image)
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def outlined(image: Image.Image, regions: Sequence[tuple[Region, bool]], label: str) -> Html:
    """The picture with a box for each (region, is the target): the target's strong, the others faint."""
    width, height = image.size
    picture = tag(
        "image",
        href=data_uri(image),
        width=width,
        height=height,
        preserve_aspect_ratio="none",
        style="image-rendering:pixelated" if max(width, height) < 64 else None,
    )
    # Faint boxes first: the target's outline lies on top of a background that holds it.
    boxes = [_box(region, target, width, height) for region, target in sorted(regions, key=lambda pair: pair[1])]
    return tag("svg", picture, *boxes, view_box=f"0 0 {width} {height}", role="img", aria_label=label)


def prompt_pictures(prompt: Prompt, folder: Path) -> Html:
    """All pictures of a prompt with its regions; a picture that cannot be opened is named in its place."""
    figures = []
    for index, name in enumerate(prompt.images):
        regions = [
            (region, place == prompt.target)
            for place, region in enumerate(prompt.regions or [])
            if region.picture == index
        ]
        image = open_picture(folder / name)
        shown = tag("div", f"cannot open {name}", class_="missing") if image is None else None
        figures.append(picture_figure(prompt, index, shown or outlined(image, regions, f"Picture {index + 1}")))
    return picture_row(figures)


def picture_figure(prompt: Prompt, index: int, shown: Html) -> Html:
    """A picture with its number under it where there are several; the target's is marked."""
    if len(prompt.images) == 1:
        return tag("figure", shown)
    is_target = prompt.target is not None and prompt.regions[prompt.target].picture == index
    caption = f"Image{index + 1}" + (" (target)" if is_target else "")
    return tag("figure", shown, tag("figcaption", caption, class_="target" if is_target else None))


def picture_row(figures: Sequence[Html]) -> Html:
    """Figures side by side, more than three in two rows."""
    columns = len(figures) if len(figures) <= 3 else (len(figures) + 1) // 2
    return tag("div", *figures, class_="pictures", style=f"--columns:{columns}")


def open_picture(path: Path) -> Image.Image | None:
    """The picture as models see it, or None: a report never fails for one picture."""
    try:
        return decode_rgb(path, path.name)
    except (RecordError, OSError):
        return None


def _box(region: Region, target: bool, width: int, height: int) -> Html:
    # A line on the very edge would be cut in half.
    inset = 0.004 * max(width, height)
    left, top = max(region.box[0], inset), max(region.box[1], inset)
    right, bottom = min(region.box[2], width - inset), min(region.box[3], height - inset)
    return tag(
        "rect",
        x=left,
        y=top,
        width=max(right - left, 0.0),
        height=max(bottom - top, 0.0),
        class_="region-target" if target else "region",
    )
