"""A prompt's pictures as one image: where each lies, what is drawn on it."""

import numpy as np
from PIL import Image

from lookright.reports.strip import COMPANION, GAP, TARGET, heat_strip
from lookright.types import Footprint, Prompt, Region


class Held:
    """Two pictures of one colour, one twice as wide as high."""

    def __init__(self) -> None:
        self.pictures = {"a": Image.new("RGB", (40, 20), (0, 0, 200)), "b": Image.new("RGB", (20, 20), (0, 200, 0))}

    def open(self, name: str) -> Image.Image:
        return self.pictures[name]

    def size(self, name: str) -> tuple[int, int]:
        return self.pictures[name].size


def test_pictures_above_their_maps() -> None:
    regions = [Region(picture=0, box=(0, 0, 40, 20), source="a"), Region(picture=1, box=(0, 0, 20, 20), source="b")]
    prompt = Prompt(
        id="p",
        images=["a", "b"],
        prompt="<image><image>?",
        ground_truth="x",
        format="sequence",
        target=0,
        regions=regions,
    )
    # all attention of the first picture on its left half, none in the second
    left, right = Footprint(box=(0, 0, 20, 20), share=1.0), Footprint(box=(20, 0, 40, 20), share=1.0)
    whole = Footprint(box=(0, 0, 20, 20), share=1.0)
    strip = np.asarray(heat_strip(prompt, Held(), [[(left, 1.0), (right, 0.0)], [(whole, 0.0)]]))
    assert strip.shape == (2 * 240 + GAP, 240 + GAP + 240, 3)
    assert tuple(strip[60, 120]) == (0, 0, 200) and tuple(strip[120, 240 + GAP + 120]) == (0, 200, 0)
    assert tuple(strip[0, 0]) == TARGET and tuple(strip[0, 240 + GAP]) == COMPANION
    assert tuple(strip[2, 100]) == TARGET and tuple(strip[2, 240 + GAP + 100]) == (0, 200, 0)
    assert tuple(strip[60, 240 + GAP // 2]) == (255, 255, 255)
    below = strip[240 + GAP :]
    bright, dark, other = (int(below[60, place].sum()) for place in (60, 180, 240 + GAP + 120))
    assert bright > 2 * dark and bright > 2 * other
