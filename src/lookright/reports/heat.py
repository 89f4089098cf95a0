"""Attention over a picture as a heat map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lookright.pictures import as_rgb
from lookright.types import Box, Size

HeatValues = Sequence[tuple[Box, float]]
"""Pixel rectangle that a token sees, and the attention that it gets. Rectangles may overlap (views, tiles)."""

ANCHORS = np.array(
    [(20, 11, 53), (85, 15, 109), (150, 38, 103), (207, 68, 70), (243, 120, 25), (251, 185, 31), (252, 250, 164)], float
)
"""Colours of the map from no attention to the most: dark to light, so that it also reads in grey."""

TARGET, COMPANION = (255, 255, 255), (170, 178, 189)


@dataclass(slots=True, frozen=True, kw_only=True)
class HeatScale:
    """What the colours mean: densities, attention per pixel, of the top of the scale and of an even spread."""

    peak: float
    even: float

    @property
    def label(self) -> str:
        """The top of the scale as a multiple of an even spread over all pictures."""
        return f"{self.peak / self.even:.1f}x" if self.even else "0"


def heat_scale(pictures: Sequence[tuple[Size, HeatValues]]) -> HeatScale:
    """One scale for all pictures of a prompt, so that their colours compare.

    The top is the 98th percentile of the tokens' densities (of few tokens the largest): a single token
    that soaks up attention would else leave the rest of the map dark.
    """
    densities = [weight / _area(box) for _, values in pictures for box, weight in values if _area(box) > 0]
    total = sum(weight for _, values in pictures for _, weight in values)
    pixels = sum(width * height for (width, height), _ in pictures)
    peak = float(np.quantile(densities, 0.98, method="higher")) if densities else 0.0
    return HeatScale(peak=peak, even=total / pixels if pixels else 0.0)


def overlay(
    picture: Image.Image,
    values: HeatValues,
    boxes: Sequence[Box] = (),
    *,
    target: int | None = None,
    scale: HeatScale | None = None,
    bar: bool = True,
    longest: int = 480,
) -> Image.Image:
    """The picture, darkened, under its heat map, `longest` pixels on its longer side, a colour bar beside it.

    `boxes` are outlined, number `target` strongly. `scale` compares several pictures; without it the
    picture has its own.
    """
    scale = scale or heat_scale([(picture.size, values)])
    zoom = longest / max(picture.size)
    size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
    resample = Image.Resampling.LANCZOS if zoom < 1 else Image.Resampling.BICUBIC
    picture_HW3 = np.asarray(as_rgb(picture).resize(size, resample), float)
    level_HW1 = np.clip(_density(size, values, zoom) / (scale.peak or 1.0), 0, 1)[..., None]
    # Where little attention went the picture keeps its own colours: the question may be about them.
    opacity_HW1 = 0.10 + 0.68 * level_HW1**0.8
    blended = (1 - opacity_HW1) * 0.62 * picture_HW3 + opacity_HW1 * colours(level_HW1[..., 0])
    shown = Image.fromarray(blended.round().astype(np.uint8))
    _outline(shown, boxes, target, zoom)
    return _with_bar(shown, scale.label) if bar else shown


def colours(levels: np.ndarray) -> np.ndarray:
    """float[...] in [0, 1] to RGB float[..., 3] in [0, 255]."""
    places = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(levels, places, ANCHORS[:, channel]) for channel in range(3)], axis=-1)


def css_gradient() -> str:
    """The colour scale for a page's legend."""
    stops = ", ".join(f"rgb({red:.0f} {green:.0f} {blue:.0f})" for red, green, blue in ANCHORS)
    return f"background: linear-gradient(to right, {stops})"


def _density(size: Size, values: HeatValues, zoom: float) -> np.ndarray:
    """Attention per pixel of the original picture, summed where rectangles overlap: float[H, W]."""
    density_HW = np.zeros((size[1], size[0]))
    for (left, top, right, bottom), weight in values:
        area = _area((left, top, right, bottom))
        if area > 0:
            rows = slice(max(round(top * zoom), 0), max(round(bottom * zoom), 0))
            columns = slice(max(round(left * zoom), 0), max(round(right * zoom), 0))
            density_HW[rows, columns] += weight / area
    return density_HW


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _outline(image: Image.Image, boxes: Sequence[Box], target: int | None, zoom: float) -> None:
    draw = ImageDraw.Draw(image)
    order = sorted(range(len(boxes)), key=lambda index: index == target)
    for index in order:
        left, top, right, bottom = (round(edge * zoom) for edge in boxes[index])
        corners = (max(left, 0), max(top, 0), min(right, image.width) - 1, min(bottom, image.height) - 1)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            if index == target:
                draw.rectangle(corners, outline=(0, 0, 0), width=5)
            draw.rectangle(corners, outline=TARGET if index == target else COMPANION, width=3 if index == target else 1)


def _with_bar(image: Image.Image, top_label: str) -> Image.Image:
    """Room on the right with the colours from 0 up to `top_label`."""
    margin, thick = 62, 14
    canvas = Image.new("RGB", (image.width + margin, max(image.height, 60)), "white")
    canvas.paste(image, (0, 0))
    length = canvas.height - 24
    ramp = colours(np.linspace(1, 0, length))[:, None, :].repeat(thick, axis=1)
    canvas.paste(Image.fromarray(ramp.round().astype(np.uint8)), (image.width + 10, 12))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for text, y in ((top_label, 12), ("0", 12 + length)):
        draw.text((image.width + 10 + thick + 5, y), text, fill=(40, 44, 50), font=font, anchor="lm")
    return canvas
