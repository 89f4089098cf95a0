"""Sizes and token counts against the measured table; pixels against the official steps done one by one."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from lookright.backbones.ixc25.image_transform import VARIANTS, plan_tiles, tile_budget, transform_picture
from lookright.errors import RecordError

# measured with the official function:
# width, height, tile budgets, long side after resizing, tiles (down, across), tokens
TABLE = [
    *[(w, h, (6, 24), 560, (1, 1), 841) for w, h in [(336, 336), (500, 375), (560, 560), (100, 20)]],
    *[(w, h, (6, 24), 1120, (2, 2), 2061) for w, h in [(640, 480), (480, 640), (1024, 768), (561, 560)]],
    (1280, 720, (6, 24), 1680, (2, 3), 2861),
    (3000, 500, (6, 24), 3360, (1, 6), 2841),
    (500, 3000, (6, 24), 3360, (6, 1), 2941),
    (1920, 1080, (6,), 1680, (2, 3), 2861),
    (1920, 1080, (24,), 2240, (3, 4), 5281),
    (1080, 1920, (24,), 2240, (4, 3), 5301),
    (2000, 2000, (24,), 2240, (4, 4), 6901),
    (4000, 3000, (24,), 2800, (4, 5), 8501),
]
SHORT_SIDES = {(1280, 720): 945, (3000, 500): 560, (1920, 1080, 24): 1260, (4000, 3000): 2100, (2000, 2000): 2240}


@pytest.mark.parametrize(("width", "height", "budgets", "long", "tiles", "tokens"), TABLE)
def test_measured_table(width: int, height: int, budgets: tuple, long: int, tiles: tuple, tokens: int) -> None:
    for hd_num in budgets:
        plan = plan_tiles((width, height), "inference", hd_num, 560)
        assert (plan.tiles_down, plan.tiles_across) == tiles
        assert max(plan.resized) == long
        assert plan.num_tokens(20) == tokens
        down, across = tiles
        assert tokens == (down * across + 1) * 400 + 1 + (down + 1) * 20
        short = SHORT_SIDES.get((width, height, hd_num), SHORT_SIDES.get((width, height)))
        if short is not None and hd_num == max(budgets):
            assert min(plan.resized) == short
        assert (plan.left, plan.top) == (0, 0)


def test_tile_budgets() -> None:
    assert [tile_budget("inference", n) for n in (0, 1, 2, 5)] == [24, 24, 6, 6]
    assert [tile_budget("finetune", n) for n in (1, 3)] == [18, 18]
    # 36 // n (at least 1), divided by n once more, at least 4
    assert [tile_budget("evaluation", n) for n in (1, 2, 3, 4, 9, 40)] == [36, 9, 4, 4, 4, 4]


def _official_steps(image: Image.Image, variant: str, hd_num: int, tile: int) -> np.ndarray:
    """The published function, step by step: uint8[H, W, 3]."""
    width, height = image.size
    turned = width < height
    if turned:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        width, height = image.size
    ratio = width / height
    scale = 1
    while scale * np.ceil(scale / ratio) <= hd_num:
        scale += 1
    scale -= 1
    cap = np.ceil(width / tile) if variant == "inference" else np.ceil(width * 1.5 / tile)
    scale = min(cap, scale)
    new_width = int(scale * tile)
    new_height = int(new_width / ratio)
    pixels = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
    total = int(np.ceil(new_height / tile) * tile)
    above = 0 if variant == "inference" else int((total - new_height) / 2)
    pixels = np.pad(pixels, [(above, total - new_height - above), (0, 0), (0, 0)], constant_values=255)
    return pixels.transpose(1, 0, 2) if turned else pixels


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(30, 50), (50, 30), (29, 29), (200, 37), (37, 200), (61, 59), (28, 28), (5, 3)])
@pytest.mark.parametrize("hd_num", [1, 6, 24])
def test_pixels_equal_the_official_steps(variant: str, size: tuple, hd_num: int, picture: Callable) -> None:
    image = picture(size, seed=4)
    plan = plan_tiles(size, variant, hd_num, 28)
    expected = torch.from_numpy(_official_steps(image, variant, hd_num, 28).copy()).permute(2, 0, 1).double() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).double()[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).double()[:, None, None]
    result = transform_picture(image, plan)
    assert result.dtype == torch.float32
    assert result.shape == (3, plan.tiles_down * 28, plan.tiles_across * 28)
    assert (result - (expected - mean) / std).abs().max() < 1e-6


def test_one_picture_at_the_real_tile_size(picture: Callable) -> None:
    image = picture((700, 900))
    result = transform_picture(image, plan_tiles(image.size, "finetune", 18, 560))
    expected = torch.from_numpy(_official_steps(image, "finetune", 18, 560).copy()).permute(2, 0, 1).float() / 255
    # 1.5 * 900 / 560 -> 3 tiles of 560 long, 1306 wide centred in 1680
    assert result.shape == expected.shape == (3, 1680, 1680)
    assert (result[0] - (expected[0] - 0.48145466) / 0.26862954).abs().max() < 1e-6
    white = (1 - 0.48145466) / 0.26862954
    assert (result[0, :, : (1680 - 1306) // 2] - white).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str, picture: Callable) -> None:
    image = picture((40, 30)).convert(mode)
    plan = plan_tiles(image.size, "inference", 4, 28)
    assert torch.equal(transform_picture(image, plan), transform_picture(image.convert("RGB"), plan))


def test_plans_never_exceed_their_budget() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        size = (draw.randint(1, 5000), draw.randint(1, 5000))
        variant, hd_num, tile = draw.choice(VARIANTS), draw.randint(1, 40), draw.choice([28, 84, 560])
        if max(size) / min(size) > tile:
            continue
        plan = plan_tiles(size, variant, hd_num, tile)
        assert 1 <= plan.tiles_down * plan.tiles_across <= hd_num
        for extent, start, resized in zip(plan.canvas, (plan.left, plan.top), plan.resized, strict=True):
            assert start >= 0
            assert start + resized <= extent
            assert extent - resized < tile


@pytest.mark.parametrize("size", [(1, 1), (1, 560), (3360, 1), (1, 100)])
def test_small_and_long_pictures_that_still_work(size: tuple) -> None:
    plan = plan_tiles(size, "inference", 24, 560)
    assert min(plan.resized) >= 1
    assert transform_picture(Image.new("RGB", size), plan).shape == (3, plan.canvas[1], plan.canvas[0])


@pytest.mark.parametrize(("size", "hd_num"), [((30000, 1), 6), ((1, 20000), 24), ((600, 1), 1)])
def test_strips_that_would_vanish_are_refused_by_name(size: tuple, hd_num: int) -> None:
    with pytest.raises(RecordError, match=f"{size[0]}x{size[1]}") as caught:
        plan_tiles(size, "inference", hd_num, 560)
    assert caught.value.reason == "picture_shape"
