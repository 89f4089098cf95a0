"""Heat maps: levels by hand and by their definition, on the token maps of both backbones; what is drawn."""

import numpy as np
import pytest
from PIL import Image

from lookright.backbones.base import TokenMap
from lookright.backbones.grid import GridMap
from lookright.backbones.ixc25.image_transform import VARIANTS, plan_tiles
from lookright.backbones.ixc25.token_map import TileMap
from lookright.reports.heat import LOWEST_PEAK, HeatValues, colours, heat_levels, heat_peak, overlay
from lookright.types import Footprint, Size
from tests.backbones.test_grid import make_map

SIZES: list[Size] = [(336, 336), (640, 427), (427, 640), (1464, 488), (97, 1000), (301, 300)]


def llava_map(size: Size) -> GridMap:
    return make_map(size, "pad", side=336, cells=24)


def ixc25_maps(size: Size) -> list[TileMap]:
    return [TileMap(plan=plan_tiles(size, variant, 9, 84), side=3) for variant in VARIANTS]


def seen(tokens: TokenMap, weights: np.ndarray) -> HeatValues:
    return [
        (footprint, float(weight))
        for footprint, weight in zip(tokens.footprints(), weights, strict=True)
        if footprint is not None
    ]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equal_attention_is_one_everywhere(size: Size) -> None:
    """Whatever aspect, padding and tiling; slivers at the picture's edges and overlapping views among them."""
    for tokens in [llava_map(size), *ixc25_maps(size)]:
        (levels,) = heat_levels([(size, seen(tokens, np.full(tokens.num_tokens, 3e-5)))])
        assert levels.shape[::-1] == (round(size[0] * 480 / max(size)), round(size[1] * 480 / max(size)))
        np.testing.assert_allclose(levels, 1.0, rtol=1e-12)


def test_equal_attention_is_one_in_every_picture_of_a_prompt() -> None:
    """Pictures of different sizes and numbers of tiles, whose tokens differ in area."""
    pictures = [(size, seen(tokens, np.full(tokens.num_tokens, 0.2))) for size in SIZES for tokens in ixc25_maps(size)]
    for levels in heat_levels(pictures):
        np.testing.assert_allclose(levels, 1.0, rtol=1e-12)


@pytest.mark.parametrize("size", [(336, 336), (640, 480), (300, 420)])
def test_attention_on_a_region_is_its_mean_level_times_that_of_an_even_look(size: Size) -> None:
    """Against coverage, which the attention ratio is made of; the region ends at whole points of the map."""
    box = (0.0, 0.0, size[0] / 2, size[1] / 3)
    for tokens in [llava_map(size), *ixc25_maps(size)]:
        weights = np.random.default_rng(0).exponential(size=tokens.num_tokens)
        covered, whole = tokens.coverage(box).numpy(), tokens.coverage((0, 0, *size)).numpy()
        wanted = (weights @ covered) / (weights @ whole) / (covered.sum() / whole.sum())
        (levels,) = heat_levels([(size, seen(tokens, weights))], longest=2 * 3 * max(size))
        part = levels[: levels.shape[0] // 3, : levels.shape[1] // 2]
        # token edges are rounded to points of the map, 6 for each pixel of the picture
        assert part.mean() == pytest.approx(wanted, rel=5e-3)


def test_levels_by_hand() -> None:
    """Two tokens of 5 x 10 pixels, 0.3 and 0.1 of attention: 1.5 and 0.5 times the even 0.2."""
    values = [(Footprint(box=(0, 0, 5, 10), share=1.0), 0.3), (Footprint(box=(5, 0, 10, 10), share=1.0), 0.1)]
    (levels,) = heat_levels([((10, 10), values)], longest=10)
    np.testing.assert_allclose(levels, [[1.5] * 5 + [0.5] * 5] * 10)


def test_a_sliver_is_no_brighter_than_its_neighbour() -> None:
    """One token sees 8 x 8 pixels, its neighbour a strip of 1/8 of its area: equal attention is equal brightness."""
    values = [(Footprint(box=(0, 0, 8, 8), share=1.0), 0.4), (Footprint(box=(8, 0, 9, 8), share=1 / 8), 0.4)]
    (levels,) = heat_levels([((9, 8), values)], longest=9)
    np.testing.assert_allclose(levels, 1.0)
    (levels,) = heat_levels([((9, 8), [values[0], (values[1][0], 0.8)])], longest=9)
    assert levels[4, 8] == pytest.approx(2 * levels[4, 4])


def test_overlapping_views_by_hand() -> None:
    """A view of one token over all and a tile over the left half: densities add, over those of an even look."""
    values = [(Footprint(box=(0, 0, 40, 40), share=1.0), 0.2), (Footprint(box=(0, 0, 20, 40), share=1.0), 0.6)]
    (levels,) = heat_levels([((40, 40), values)], longest=40)
    # even look: 0.4 each; left 0.2 / 2 + 0.6 against 0.4 / 2 + 0.4 (in halves of the picture), right 0.2 against 0.4
    assert levels[5, 5] == pytest.approx(0.7 / 0.6) and levels[5, 35] == pytest.approx(0.5)


def test_what_no_token_sees_and_no_attention() -> None:
    """A cropped picture's ends are 0; a model that gives pictures nothing has 0 everywhere."""
    tokens = make_map((60, 20), "crop", side=8, cells=4)
    (levels,) = heat_levels([((60, 20), seen(tokens, np.ones(16)))], longest=60)
    assert not levels[:, :20].any() and not levels[:, 40:].any()
    np.testing.assert_allclose(levels[:, 20:40], 1.0)
    (dark,) = heat_levels([((60, 20), seen(tokens, np.zeros(16)))], longest=60)
    assert not dark.any()
    assert heat_levels([]) == []


def test_the_top_of_the_scale() -> None:
    """The 98th percentile of all maps together, and never so low that an even look is bright."""
    assert heat_peak([]) == heat_peak([np.ones((4, 4))]) == LOWEST_PEAK
    maps = [np.full((10, 10), 3.0), np.arange(100.0).reshape(10, 10)]
    assert heat_peak(maps) == pytest.approx(np.quantile(np.concatenate([part.ravel() for part in maps]), 0.98))
    sink = np.full((100, 100), 0.9)
    sink[0, 0] = 1000.0
    assert heat_peak([sink]) == LOWEST_PEAK


def test_overlay_is_bright_where_the_attention_is() -> None:
    picture = Image.new("RGB", (40, 20), (120, 120, 120))
    levels = np.full((200, 400), 0.2)
    levels[:, :200] = 1.8
    shown = overlay(picture, levels, 2.0)
    assert shown.size == (400, 200)
    pixels = np.asarray(shown, float)
    assert pixels[100, 100].sum() > 1.5 * pixels[100, 300].sum()
    assert colours(np.array([0.0, 1.0])).tolist() == [[20, 11, 53], [252, 250, 164]]
