"""Cutting a picture into tiles: how many, how large, where the padding goes; PIL alone.

Three published ways (`variant`), which give different tokens for one picture:

| variant | most scale | padding | tile budget |
|---|---|---|---|
| `inference` | ceil(long / tile) | after the short side | 24 for one picture, 6 each for several |
| `finetune` | ceil(1.5 long / tile) | both sides of the short side | 18 |
| `evaluation` | ceil(1.5 long / tile) | both sides of the short side | 36 for one, max(4, 36 // n // n) each for n |

The evaluation variant is VLMEvalKit's, whose budget divides by n twice.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookright.common.pictures import as_rgb
from lookright.errors import RecordError
from lookright.types import Size

VARIANTS = ("inference", "finetune", "evaluation")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
WHITE = (255, 255, 255)


@dataclass(slots=True, frozen=True, kw_only=True)
class TilePlan:
    """What happens to a picture of `size` pixels before any pixel is read.

    `resized`: width and height after resizing; it lies at (`left`, `top`) of a white canvas of
    `tiles_down` x `tiles_across` tiles of `tile` pixels.
    """

    size: Size
    resized: Size
    left: int
    top: int
    tiles_down: int
    tiles_across: int
    tile: int

    @property
    def canvas(self) -> Size:
        """Width and height of the padded picture in pixels."""
        return self.tiles_across * self.tile, self.tiles_down * self.tile

    def num_tokens(self, side: int) -> int:
        """Rows that the picture makes, `side` tokens along a tile: overview, separators, tiles."""
        return (self.tiles_down * self.tiles_across + 1) * side * side + 1 + (self.tiles_down + 1) * side


def tile_budget(variant: str, num_pictures: int) -> int:
    """Most tiles of one picture (`hd_num`) in a prompt with `num_pictures` pictures."""
    several = num_pictures > 1
    if variant == "inference":
        return 6 if several else 24
    if variant == "finetune":
        return 18
    return max(4, 36 // num_pictures // num_pictures) if several else 36


def plan_tiles(size: Size, variant: str, hd_num: int, tile: int) -> TilePlan:
    """Tiles and padding of a picture of `size` pixels, at most `hd_num` tiles, each of `tile` pixels.

    Portrait pictures are planned lying on their side, which puts the padding right of them instead of
    below. Raises RecordError (reason `picture_shape`) for a strip so long that its short side vanishes:
    the official code fails there in the middle of a batch.
    """
    portrait = size[0] < size[1]
    long, short = max(size), min(size)
    if short < 1:
        raise RecordError("picture_shape", f"a picture of {size[0]}x{size[1]} pixels has no pixels")
    ratio = long / short
    scale = 1
    while scale * math.ceil(scale / ratio) <= hd_num:
        scale += 1
    widest = long if variant == "inference" else long * 1.5
    scale = min(math.ceil(widest / tile), scale - 1)
    new_long = scale * tile
    new_short = int(new_long / ratio)
    if new_short < 1:
        raise RecordError(
            "picture_shape",
            f"a picture of {size[0]}x{size[1]} pixels is {ratio:.0f} times as long as wide and vanishes when it is "
            f"resized to {new_long} pixels; crop it, or leave it out (at most {new_long}:1)",
        )
    rows = math.ceil(new_short / tile)
    before = 0 if variant == "inference" else (rows * tile - new_short) // 2
    if portrait:
        return TilePlan(
            size=size, resized=(new_short, new_long), left=before, top=0, tiles_down=scale, tiles_across=rows, tile=tile
        )
    return TilePlan(
        size=size, resized=(new_long, new_short), left=0, top=before, tiles_down=rows, tiles_across=scale, tile=tile
    )


def transform_picture(image: Image.Image, plan: TilePlan) -> Tensor:
    """Resize, pad with white, normalise as CLIP does: float32[3, tiles_down * tile, tiles_across * tile].

    A portrait picture is turned over its diagonal, resized and turned back as the official code does,
    because bilinear rounding depends on the order of the two directions.
    """
    image = image if image.mode == "RGB" else as_rgb(image)
    assert image.size == plan.size, "the plan belongs to another picture"
    if image.width < image.height:
        lying = image.transpose(Image.Transpose.TRANSPOSE).resize(plan.resized[::-1], Image.Resampling.BILINEAR)
        resized = lying.transpose(Image.Transpose.TRANSPOSE)
    else:
        resized = image.resize(plan.resized, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", plan.canvas, WHITE)
    canvas.paste(resized, (plan.left, plan.top))
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    # in place: 36 tiles are 135 MB each time
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float().div_(255).sub_(mean).div_(std)
