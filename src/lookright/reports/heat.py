"""Attention over a picture as a heat map.

The unit of a map is the even spread: what a place would have if every image token had the same attention. A token's
attention lies evenly on its own area, padding included, so that one that touches the picture by a sliver is no
brighter than its neighbours.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lookright.common.pictures import as_rgb
from lookright.types import Footprint, Size

HeatValues = Sequence[tuple[Footprint, float]]
"""What each token sees of a picture, and the attention that it gets. Footprints may overlap (views, tiles)."""

ANCHORS = np.array(
    [(20, 11, 53), (85, 15, 109), (150, 38, 103), (207, 68, 70), (243, 120, 25), (251, 185, 31), (252, 250, 164)], float
)
"""Colours of the map from no attention to the most: dark to light, so that it also reads in grey."""

LOWEST_PEAK = 2.0
"""The brightest colour is never less than this many times an even spread: an even look is not to look bright."""


def heat_levels(pictures: Sequence[tuple[Size, HeatValues]], longest: int = 480) -> list[np.ndarray]:
    """Attention at each place of a prompt's pictures, as a multiple of an even spread over all of them: float[H, W].

    `longest`: points of the longer side of each map. A place has the sum, over the tokens that see it, of attention
    over own area, relative to what that sum is where all tokens have the same attention, which is the mean over the
    tokens weighted by their shares. So equal attention is 1 everywhere, and the attention on a
    region is its mean level times what an even look gives it. A place that no token sees has 0.
    """
    weights = [(seen.share, weight) for _, values in pictures for seen, weight in values]
    on_pictures, seen_area = sum(share * weight for share, weight in weights), sum(share for share, _ in weights)
    even = on_pictures / seen_area if on_pictures else 1.0
    return [_levels(size, values, even, longest) for size, values in pictures]


def heat_peak(levels: Sequence[np.ndarray]) -> float:
    """The level of the brightest colour for maps that are to compare: their 98th percentile, at least 2.

    A few places that soak up attention would else leave the rest dark.
    """
    if not levels:
        return LOWEST_PEAK
    return max(LOWEST_PEAK, float(np.quantile(np.concatenate([part.ravel() for part in levels]), 0.98)))


def overlay(picture: Image.Image, levels_HW: np.ndarray, peak: float) -> Image.Image:
    """The picture under its heat map, as large as the map."""
    size = (levels_HW.shape[1], levels_HW.shape[0])
    resample = Image.Resampling.LANCZOS if size[0] < picture.width else Image.Resampling.BICUBIC
    picture_HW3 = np.asarray(as_rgb(picture).resize(size, resample), float)
    level_HW1 = np.clip(levels_HW / peak, 0, 1)[..., None]
    # Where little attention went the picture keeps its own colours: the question may be about them.
    opacity_HW1 = 0.10 + 0.68 * level_HW1**0.8
    blended = (1 - opacity_HW1) * 0.62 * picture_HW3 + opacity_HW1 * colours(level_HW1[..., 0])
    return Image.fromarray(blended.round().astype(np.uint8))


def colours(levels: np.ndarray) -> np.ndarray:
    """float[...] in [0, 1] to RGB float[..., 3] in [0, 255]."""
    places = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(levels, places, ANCHORS[:, channel]) for channel in range(3)], axis=-1)


def css_gradient() -> str:
    """The colour scale for a page's legend."""
    stops = ", ".join(f"rgb({red:.0f} {green:.0f} {blue:.0f})" for red, green, blue in ANCHORS)
    return f"linear-gradient(to right, {stops})"


def _levels(size: Size, values: HeatValues, even: float, longest: int) -> np.ndarray:
    """One picture's map; `even` is what each token has in an even look."""
    width, height = (max(1, round(side * longest / max(size))) for side in size)
    across, down = width / size[0], height / size[1]
    density_HW, even_HW = np.zeros((height, width)), np.zeros((height, width))
    for seen, weight in values:
        left, top, right, bottom = seen.box
        place = slice(round(top * down), round(bottom * down)), slice(round(left * across), round(right * across))
        density_HW[place] += weight / seen.own_area
        even_HW[place] += even / seen.own_area
    return np.divide(density_HW, even_HW, out=np.zeros_like(density_HW), where=even_HW > 0)
