"""`single_image`: the plain question about one picture, the control that must not get worse."""

import random
from collections.abc import Sequence
from typing import ClassVar

from lookright.composing.formats.base import Composed, Composer, OpenPicture, whole_picture
from lookright.types import IMAGE_PLACEHOLDER, SourceRow


class SingleImage(Composer):
    """The picture and the question as the source has them; takes no companions."""

    name = "single_image"
    counts = (1,)
    composer_version = 1
    default_mixture: ClassVar = {1: 1}
    weight = 1.0

    def compose(
        self, target: SourceRow, companions: Sequence[SourceRow], open_picture: OpenPicture, rng: random.Random
    ) -> Composed:
        """`<image>` and the question on the next line."""
        self.arrange(target, companions, rng)
        image = open_picture(target)
        prompt = f"{IMAGE_PLACEHOLDER}\n{target.question}"
        return Composed(pictures=[image], prompt=prompt, target=0, regions=[whole_picture(0, image, target)])
