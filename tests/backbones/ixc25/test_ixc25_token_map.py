"""Geometry by painting: a box painted in a blank picture changes the tokens that its coverage names."""

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from lookright.backbones.ixc25.image_transform import VARIANTS, TilePlan, plan_tiles, transform_picture
from lookright.backbones.ixc25.token_map import TileMap
from lookright.backbones.ixc25.vision import cut_tiles

TILE, SIDE = 84, 3


def painted(plan: TilePlan, box: tuple) -> Tensor:
    """How far each pixel of the canvas turned from black to white when `box` was painted: float[H, W] in [0, 1]."""
    blank = Image.new("RGB", plan.size)
    image = blank.copy()
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    before, after = transform_picture(blank, plan)[0], transform_picture(image, plan)[0]
    return (after - before) * 0.26862954


def share_of_tokens(change: Tensor, plan: TilePlan) -> tuple[Tensor, Tensor]:
    """Mean change of each token's cell in the overview and in the tiles: float[SIDE, SIDE], float[rows, columns]."""
    overview = F.adaptive_avg_pool2d(change[None], SIDE)[0]
    cell = TILE // SIDE
    return overview, F.avg_pool2d(change[None], cell)[0]


def split(tokens: Tensor, plan: TilePlan) -> tuple[Tensor, Tensor, Tensor]:
    """Overview grid, tile grid and all separators of a flat token vector."""
    rows, columns = plan.tiles_down * SIDE, plan.tiles_across * SIDE
    head = tokens[: SIDE * (SIDE + 1)].view(SIDE, SIDE + 1)
    tail = tokens[SIDE * (SIDE + 1) + 1 :].view(rows, columns + 1)
    middle = tokens[SIDE * (SIDE + 1)].view(1)
    return head[:, :-1], tail[:, :-1], torch.cat([head[:, -1], middle, tail[:, -1]])


# no resize (sides are multiples of the tile, scale one): exact; otherwise bilinear blurs the box's border
EXACT = [((168, 84), 6), ((84, 168), 6), ((252, 100), 6), ((100, 252), 6), ((168, 168), 4)]
BLURRED = [((300, 200), 6), ((200, 300), 6), ((50, 120), 24), ((640, 480), 6), ((90, 31), 2)]


@pytest.mark.parametrize(("size", "hd_num"), EXACT)
@pytest.mark.parametrize("where", [(0.0, 0.0, 0.5, 0.5), (0.3, 0.2, 0.9, 0.7), (0.5, 0.6, 1.0, 1.0), (0, 0, 1, 1)])
def test_coverage_is_the_painted_share_exactly_without_resizing(size: tuple, hd_num: int, where: tuple) -> None:
    plan = plan_tiles(size, "inference", hd_num, TILE)
    assert plan.resized == size
    box = tuple(int(part * extent) for part, extent in zip(where, size * 2, strict=True))
    overview, tiles = share_of_tokens(painted(plan, box), plan)
    head, tail, separators = split(TileMap(plan=plan, side=SIDE).coverage(box), plan)
    assert (head - overview).abs().max() < 1e-5
    assert (tail - tiles).abs().max() < 1e-5
    assert separators.eq(0).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("size", "hd_num"), BLURRED)
def test_coverage_is_the_painted_share_through_resize_padding_and_transposition(
    variant: str, size: tuple, hd_num: int
) -> None:
    plan = plan_tiles(size, variant, hd_num, TILE)
    for where in [(0.0, 0.0, 0.5, 0.5), (0.4, 0.1, 0.8, 0.95), (0.6, 0.7, 1.0, 1.0)]:
        box = tuple(round(part * extent) for part, extent in zip(where, size * 2, strict=True))
        overview, tiles = share_of_tokens(painted(plan, box), plan)
        head, tail, separators = split(TileMap(plan=plan, side=SIDE).coverage(box), plan)
        assert (head - overview).abs().max() < 0.02
        assert (tail - tiles).abs().max() < 0.05
        assert (tail - tiles).abs().mean() < 0.01
        assert separators.eq(0).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_tiles_and_overview_of_the_model_see_the_box(variant: str, size: tuple) -> None:
    """Through the cutting that the model does: tokens far from the box see no change, tokens inside all of it."""
    plan = plan_tiles(size, variant, 6, TILE)
    box = (0.1 * size[0], 0.2 * size[1], 0.7 * size[0], 0.6 * size[1])
    change = painted(plan, tuple(int(edge) for edge in box))
    cells = F.avg_pool2d(cut_tiles(change.expand(3, -1, -1), TILE)[:, 0], TILE // SIDE)
    head, tail, _ = split(TileMap(plan=plan, side=SIDE).coverage(tuple(int(edge) for edge in box)), plan)
    # the overview is sampled, not averaged: its border cells are coarse
    assert (cells[0] - head).abs().max() < 0.1
    seen = cells[1:].view(plan.tiles_down, plan.tiles_across, SIDE, SIDE).transpose(1, 2).reshape(tail.shape)
    assert (seen - tail).abs().max() < 0.05


def test_padding_belongs_to_nobody_and_footprints_include_it() -> None:
    plan = plan_tiles((168, 100), "inference", 6, TILE)
    assert plan.canvas == (168, 168)
    head, tail, _ = split(TileMap(plan=plan, side=SIDE).coverage((0, 0, 168, 100)), plan)
    # rows of 28 pixels: 100 = 3 * 28 + 16, then padding
    expected = torch.tensor([1, 1, 1, 16 / 28, 0, 0])
    assert torch.allclose(tail, expected[:, None].expand(6, 6))
    # overview rows of 56 pixels: 100 = 56 + 44
    assert torch.allclose(head, torch.tensor([1, 44 / 56, 0])[:, None].expand(3, 3))


def test_centred_padding_of_a_portrait_picture_lies_left_and_right() -> None:
    plan = plan_tiles((56, 84), "finetune", 1, TILE)
    assert (plan.left, plan.top) == (14, 0)
    _, tail, _ = split(TileMap(plan=plan, side=SIDE).coverage((0, 0, 56, 84)), plan)
    assert torch.allclose(tail, torch.tensor([0.5, 1.0, 0.5]).expand(3, 3))


def test_coverage_adds_up_and_clips() -> None:
    plan = plan_tiles((130, 217), "evaluation", 9, TILE)
    tokens = TileMap(plan=plan, side=SIDE)
    left, right = tokens.coverage((0, 0, 60, 217)), tokens.coverage((60, 0, 130, 217))
    whole = tokens.coverage((0, 0, 130, 217))
    assert torch.allclose(left + right, whole, atol=1e-6)
    assert torch.equal(whole, tokens.coverage((-50, -50, 1000, 1000)))
    assert tokens.coverage((200, 0, 300, 50)).eq(0).all()
    assert whole.max() <= 1.0
    assert whole.shape == (tokens.num_tokens,) == (plan.num_tokens(SIDE),)
    assert whole.dtype == torch.float32
    # the area of all tile tokens is the area of the resized picture
    _, tail, _ = split(whole, plan)
    assert tail.sum().item() * 28 * 28 == pytest.approx(plan.resized[0] * plan.resized[1], rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("size", "hd_num"), [*EXACT, *BLURRED])
def test_a_footprint_is_covered_by_itself_and_by_the_whole_picture_alike(
    variant: str, size: tuple, hd_num: int
) -> None:
    tokens = TileMap(plan=plan_tiles(size, variant, hd_num, TILE), side=SIDE)
    footprints, whole = tokens.footprints(), tokens.coverage((0, 0, *size))
    assert len(footprints) == tokens.num_tokens
    for index, seen in enumerate(footprints):
        if seen is None:
            assert whole[index] == 0
            continue
        box = seen.box
        assert seen.share == pytest.approx(whole[index].item(), abs=1e-5)
        assert 0 <= box[0] < box[2] <= size[0]
        assert 0 <= box[1] < box[3] <= size[1]
        own = tokens.coverage(box)
        assert own[index] == pytest.approx(whole[index].item(), abs=1e-5)
        # of its own kind (overview or tiles) nobody else sees it
        start, stop = (0, 12) if index < 12 else (13, len(own))
        assert own[start:stop].sum() == pytest.approx(own[index].item(), abs=1e-5)


def test_footprints_by_hand() -> None:
    tokens = TileMap(plan=plan_tiles((168, 100), "inference", 6, TILE), side=SIDE)
    head, tail = tokens.footprints()[:12], tokens.footprints()[13:]
    first_row = [(0.0, 0.0, 56.0, 56.0), (56.0, 0.0, 112.0, 56.0), (112.0, 0.0, 168.0, 56.0)]
    assert [seen.box for seen in head[:3]] == first_row and head[3] is None
    assert head[4].box == (0.0, 56.0, 56.0, 100.0) and head[4].share == pytest.approx(44 / 56)
    assert head[8:] == [None] * 4
    assert tail[1].box == (28.0, 0.0, 56.0, 28.0) and tail[1].share == 1
    corner = tail[3 * 7 + 5]
    assert corner.box == (140.0, 84.0, 168.0, 100.0) and tail[3 * 7 + 6] is None
    # 16 of the 28 rows of the token's cell, and all of that cell as its own area
    assert corner.share == pytest.approx(16 / 28) and corner.own_area == pytest.approx(28 * 28)
    assert tail[4 * 7 :] == [None] * 14
