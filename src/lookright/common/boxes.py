"""Arithmetic on pixel boxes."""

from collections.abc import Sequence

from lookright.types import Box


def disjoint(boxes: Sequence[Box]) -> list[Box]:
    """Cut boxes into pieces that overlap nowhere and cover what the boxes cover together.

    Boxes that do not overlap come out as they are, so shares of the pieces add up to those of the union.
    """
    pieces: list[Box] = []
    for box in boxes:
        rest = [box]
        for piece in pieces:
            rest = [part for one in rest for part in _without(one, piece)]
        pieces += rest
    return pieces


def _without(box: Box, hole: Box) -> list[Box]:
    """At most four boxes: what is left of `box` above, below, left and right of `hole`."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = max(x0, hole[0]), max(y0, hole[1]), min(x1, hole[2]), min(y1, hole[3])
    if left >= right or top >= bottom:
        return [box]
    parts = [(x0, y0, x1, top), (x0, bottom, x1, y1), (x0, top, left, bottom), (right, top, x1, bottom)]
    return [part for part in parts if part[0] < part[2] and part[1] < part[3]]
