"""`pic_in_pic`: the target pasted in the centre of another picture."""

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from PIL import Image

from lookright.common.layouts import inset_box
from lookright.composing.formats.base import (
    Composed,
    Composer,
    OpenPicture,
    lower_first,
    whole_picture,
    without_bounding_box,
)
from lookright.errors import ConfigError
from lookright.types import IMAGE_PLACEHOLDER, Region, SourceRow

PHRASES = (
    "In the picture placed in the centre",
    "Regarding the smaller image in the middle",
    "For the inset at the centre",
    "Looking only at the central picture",
    "As to the image that lies on top of the other one",
    "In the small picture in the middle",
    "Considering the inner image alone",
    "About the picture framed by the larger one",
    "In the embedded image",
    "For the central image, not the one behind it",
)


class PicInPic(Composer):
    """Two source images: region 0 is the background (its whole picture), region 1 the inset, the target.

    The inset fits in `inset_share` of the background's width and height and keeps its aspect; the part
    of the background that it hides counts as both regions. A background whose shorter side has fewer
    than `min_side` pixels is enlarged to it first (0: never), so that insets of thumbnails keep detail.
    """

    name = "pic_in_pic"
    counts = (2,)
    composer_version = 1
    default_mixture: ClassVar = {2: 1}
    weight = 4.5
    thresholds = 0.8

    def __init__(self, mixture: Mapping[int, float] | None = None, inset_share: float = 0.7, min_side: int = 0) -> None:
        super().__init__(mixture)
        if not 0 < inset_share < 1:
            raise ConfigError(f"composers.pic_in_pic.inset_share={inset_share}: set a number between 0 and 1")
        if min_side < 0:
            raise ConfigError(f"composers.pic_in_pic.min_side={min_side}: set a number of pixels, or 0 for never")
        self.inset_share = inset_share
        self.min_side = min_side

    def accepts(self, row: SourceRow) -> bool:
        """Rows without a bounding box in their text."""
        return without_bounding_box(row)

    def compose(
        self, target: SourceRow, companions: Sequence[SourceRow], open_picture: OpenPicture, rng: random.Random
    ) -> Composed:
        """One picture and `{phrase for the central picture}, {question}`."""
        self.arrange(target, companions, rng)
        phrase = rng.randrange(len(PHRASES))
        canvas = enlarge(open_picture(companions[0]), self.min_side)
        inset = open_picture(target)
        box = inset_box(canvas.size, inset.size, self.inset_share)
        left, top, right, bottom = map(int, box)
        background = whole_picture(0, canvas, companions[0])
        canvas.paste(inset.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
        return Composed(
            pictures=[canvas],
            prompt=f"{IMAGE_PLACEHOLDER}\n{PHRASES[phrase]}, {lower_first(target.question)}",
            target=1,
            regions=[background, Region(picture=0, box=box, source=target.id)],
            facts={"phrase": phrase, "inset_share": self.inset_share},
        )


def enlarge(image: Image.Image, min_side: int) -> Image.Image:
    """A copy whose shorter side has at least `min_side` pixels."""
    scale = min_side / min(image.size)
    if scale <= 1:
        return image.copy()
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
