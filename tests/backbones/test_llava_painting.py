"""Boxes against pixels: what is painted in a picture changes the tokens that the map says see it.

A box painted white on black changes the model input in proportion to how much of a pixel it covers, so the
mean change over a token's patch, as a share of a whole change, is its coverage.
"""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lookright.backbones.llava import LlavaBackbone
from lookright.types import Box, Size
from recipes.tiny.folders import write_llava_folder
from tests.conftest import WORDS

PATCH, CELLS = 14, 12
SIZES: list[Size] = [(336, 336), (640, 400), (400, 640), (1456, 546), (333, 201), (171, 170), (90, 400)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("painting")
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {"image_size": PATCH * CELLS, "patch_size": PATCH, "hidden_size": 8, "intermediate_size": 8}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    write_llava_folder(path, [WORDS], vocab_size=300, text=text, vision=vision)
    return path


def boxes_of(size: Size) -> list[Box]:
    width, height = size
    return [
        (0, 0, width, height),
        (0, 0, width // 3, height // 2),
        (width // 2, height // 3, width, height),
        (width * 2 // 5, height // 4, width * 3 // 5, height * 3 // 4),
        (width // 10, height * 3 // 4, width // 3, height - 2),
    ]


def changed_share(backbone: LlavaBackbone, size: Size, box: Box) -> Tensor:
    """Mean change of each token's patch, 1 where all of it turned from black to white: float[CELLS ** 2]."""
    black = Image.new("RGB", size)
    painted = black.copy()
    # PIL's rectangle includes its last pixel, a box does not
    ImageDraw.Draw(painted).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(255, 255, 255))
    change = backbone.preprocess(painted, 1) - backbone.preprocess(black, 1)
    full = torch.tensor(backbone.processor.image_std).reciprocal()[:, None, None]
    return (change / full).mean(0).unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).mean((2, 3)).flatten()


@pytest.mark.parametrize("aspect", ["pad", "crop"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_painted_boxes_change_the_tokens_that_see_them(folder: Path, size: Size, aspect: str) -> None:
    backbone = LlavaBackbone(path=str(folder), image_aspect=aspect)
    grid = backbone.token_map(size, 1)
    assert grid.num_tokens == CELLS**2
    for box in boxes_of(size):
        coverage, changed = grid.coverage(box), changed_share(backbone, size, box)
        difference = (changed - coverage).abs()
        # padding and cropping happen at whole pixels, half a pixel off at most; bicubic edges ring by 4 %
        half_pixel = max(0.5 * grid.scale, 0.5) / PATCH
        assert difference.max() < 0.03 + 2 * half_pixel, (
            f"box {box}: largest difference {difference.max():.3f} at token {int(difference.argmax())}, "
            f"mean {difference.mean():.4f}"
        )
        assert difference.mean() < 0.012, f"box {box}: mean difference {difference.mean():.4f}"
        # which tokens change at all: those covered, and none a token away from the box
        assert (changed[coverage > 0.12] > 0.02).all()
        near = torch.nn.functional.max_pool2d((coverage > 0).float().view(1, 1, CELLS, CELLS), 3, 1, 1).flatten() > 0
        assert (changed[~near].abs() < 0.01).all()


@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_a_painted_footprint_changes_its_own_token_most(folder: Path, aspect: str) -> None:
    backbone = LlavaBackbone(path=str(folder), image_aspect=aspect)
    size = (504, 336)
    footprints = backbone.token_map(size, 1).footprints()
    whole = backbone.token_map(size, 1).coverage((0, 0, *size))
    for number in [n for n in range(CELLS**2) if whole[n] > 0.99][::13]:
        left, top, right, bottom = footprints[number].box
        changed = changed_share(backbone, size, (round(left), round(top), round(right), round(bottom)))
        assert changed.argmax() == number and changed[number] > 0.9
        changed[number] = 0
        assert changed.max() < 0.1


def test_padding_is_the_mean_colour(folder: Path) -> None:
    """Normalised, the mean colour is nothing: tokens that see padding alone see zeros."""
    backbone = LlavaBackbone(path=str(folder))
    pixels = backbone.preprocess(Image.new("RGB", (300, 100), (255, 255, 255)), 1)
    patches = pixels.abs().amax(0).unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).amax((2, 3)).flatten()
    padding = torch.tensor([seen is None for seen in backbone.token_map((300, 100), 1).footprints()])
    assert padding.sum() == 8 * CELLS
    # colours are whole numbers of 0 to 255; the cells next to the picture may hold its bicubic edge
    assert patches.view(CELLS, CELLS)[0].max() < 0.02 and patches.view(CELLS, CELLS)[5].min() > 1
