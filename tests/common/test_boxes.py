"""Cutting overlapping boxes into pieces."""

import random

from lookright.common.boxes import disjoint
from lookright.types import Box

SIDE = 12


def pixels(box: Box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}


def test_boxes_that_do_not_overlap_stay() -> None:
    boxes = [(0, 0, 2, 2), (2, 0, 4, 2), (0, 5, 1, 6)]
    assert disjoint(boxes) == boxes
    assert disjoint([]) == []


def test_a_box_inside_another_adds_nothing() -> None:
    assert disjoint([(0, 0, 9, 9), (2, 3, 5, 6)]) == [(0, 0, 9, 9)]


def test_pieces_are_the_union_painted_pixel_by_pixel() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        boxes = []
        for _ in range(rng.randint(1, 6)):
            (x0, x1), (y0, y1) = (sorted(rng.sample(range(SIDE + 1), 2)) for _ in range(2))
            boxes.append((x0, y0, x1, y1))
        painted = [pixels(piece) for piece in disjoint(boxes)]
        assert sum(map(len, painted)) == len(set().union(*painted)), "pieces overlap"
        assert set().union(*painted) == set().union(*map(pixels, boxes))
