"""Gaussian noise on the target while the model answers: the sources' hidden help, here an option that is recorded."""

from collections.abc import Collection, Mapping

import numpy as np
from PIL import Image

from lookright.common.hashing import stable_hash
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.errors import ConfigError
from lookright.types import Prompt


class TargetNoise:
    """Standard deviations in grey levels (0-255) by format; formats that are not named stay clean.

    The noise falls on the target's region, in the formats of `whole_picture` on the whole picture that it lies on.
    Source: the released AA-DPO scripts, for grid_collage and pic_in_pic.
    """

    def __init__(self, std: Mapping[str, float], whole_picture: Collection[str] = (PicInPic.name,)) -> None:
        if any(not value >= 0 for value in std.values()):
            raise ConfigError(f"noise.std={dict(std)}: set a value >= 0 for each format")
        self.std, self.whole_picture = dict(std), frozenset(whole_picture)

    def describe(self, prompt: Prompt) -> dict[str, float | str] | None:
        """What is recorded with the answer; None where the picture stays clean."""
        std = self.std.get(prompt.format, 0.0)
        return {"std": std, "part": "picture" if prompt.format in self.whole_picture else "target"} if std else None

    def __call__(self, prompt: Prompt, number: int, picture: Image.Image) -> Image.Image:
        """Picture `number` of the prompt with its noise, the same whenever the prompt is the same."""
        if prompt.regions is None or prompt.target is None or self.describe(prompt) is None:
            return picture
        region = prompt.regions[prompt.target]
        if region.picture != number:
            return picture
        whole = prompt.format in self.whole_picture
        x0, y0, x1, y1 = (0, 0, *picture.size) if whole else map(round, region.box)
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32).copy()
        generator = np.random.default_rng(stable_hash(prompt.id))
        noise = generator.normal(0.0, self.std[prompt.format], (y1 - y0, x1 - x0, 3))
        pixels[y0:y1, x0:x1] += noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
