"""`sequence`: 2 to 5 pictures one after the other."""

import random
from collections.abc import Sequence
from typing import ClassVar

from lookright.composing.formats.base import Composed, Composer, OpenPicture, lower_first, whole_picture
from lookright.types import IMAGE_PLACEHOLDER, SourceRow


class SequenceFormat(Composer):
    """Every source image is a picture of its own and fills it; mixture of MIA-DPO."""

    name = "sequence"
    counts = (2, 3, 4, 5)
    composer_version = 1
    default_mixture: ClassVar = {2: 55, 3: 16, 4: 16, 5: 13}
    weight = 15.1
    thresholds: ClassVar = {2: 0.8, 3: 0.7, 4: 0.6, 5: 0.6}
    inclusive = True

    def compose(
        self, target: SourceRow, companions: Sequence[SourceRow], open_picture: OpenPicture, rng: random.Random
    ) -> Composed:
        """`Image1:<image>` ... each on a line of its own, then `In Image{k}, {question}`."""
        rows, place = self.arrange(target, companions, rng)
        pictures = [open_picture(row) for row in rows]
        return Composed(
            pictures=pictures,
            prompt=f"{labelled_pictures(len(rows))}In Image{place + 1}, {lower_first(target.question)}",
            target=place,
            regions=[whole_picture(i, pictures[i], row) for i, row in enumerate(rows)],
        )


def labelled_pictures(count: int, before: int = 0) -> str:
    """What stands before a question about pictures one after the other: `Image1:<image>` ..., a line each.

    `before`: pictures of earlier turns, from which the numbers go on.
    """
    return "".join(f"Image{before + number}:{IMAGE_PLACEHOLDER}\n" for number in range(1, count + 1))


def placed_pictures(count: int, before: int = 0) -> str:
    """What stands before a question that marks no places: `labelled_pictures`, or one picture alone as `<image>`."""
    return f"{IMAGE_PLACEHOLDER}\n" if count == 1 and not before else labelled_pictures(count, before)
