"""What must hold for the attention ratio whatever the pictures: 1,000 random compositions on each backbone."""

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lookright.attention import TARGET, attention_ratio, even_ratio
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.common.layouts import GRIDS, GridLayout, inset_box
from lookright.packing.encode import look_coverage
from lookright.types import Box, Region, Size
from tests.compare import assert_close

ASSETS = Path(importlib.util.find_spec("lookright").origin).parent / "backbones" / "assets"
NUM_COMPOSITIONS = 1000
FLOAT32 = "coverage is float32, sums over a few thousand tokens"

Composition = tuple[list[Size], list[Region]]
"""Sizes of the pictures, and the regions of the source images."""


@pytest.fixture(scope="module", params=["pad", "crop", "tiles"])
def backbone(request: pytest.FixtureRequest, llava_folder: Path) -> Backbone:
    """A padding, a cropping and a tiling one."""
    if request.param == "tiles":
        return Ixc25Backbone(path=str(ASSETS / "tiny_ixc25"), hd_num=6)
    return LlavaBackbone(path=str(llava_folder), image_aspect=request.param)


def random_size(rng: random.Random) -> Size:
    """From 1:6 to 6:1, of 20 to 900 pixels on the longer side."""
    longer, aspect = rng.randint(20, 900), rng.uniform(1, 6)
    size = (longer, max(4, round(longer / aspect)))
    return size if rng.random() < 0.5 else size[::-1]


def regions_of(boxes: list[tuple[int, Box]]) -> list[Region]:
    return [Region(picture=picture, box=box, source=str(number)) for number, (picture, box) in enumerate(boxes)]


def sequence(rng: random.Random) -> Composition:
    sizes = [random_size(rng) for _ in range(rng.randint(1, 5))]
    return sizes, regions_of([(number, (0, 0, *size)) for number, size in enumerate(sizes)])


def collage(rng: random.Random) -> Composition:
    layout = GridLayout(count=rng.choice(list(GRIDS)), cell_size=rng.choice([112, 448]), margin=rng.choice([10, 40]))
    sizes = [(rng.randint(20, layout.cell_size), rng.randint(20, layout.cell_size)) for _ in range(layout.count)]
    return [layout.size], regions_of([(0, layout.place(number, size)) for number, size in enumerate(sizes)])


def pic_in_pic(rng: random.Random) -> Composition:
    background = random_size(rng)
    return [background], regions_of([(0, (0, 0, *background)), (0, inset_box(background, random_size(rng), 0.7))])


def drawn(backbone: Backbone, make: Callable[[random.Random], Composition], number: int) -> tuple[Composition, Tensor]:
    """A composition and the coverage with each of its regions as the target: float32[C, L, 2]."""
    sizes, regions = make(random.Random(f"{make.__name__}/{number}"))
    prompt = backbone.encode_prompt("<image>\n" * len(sizes) + "In Image1, what is it?", sizes)
    looks = [look_coverage(backbone, prompt, regions, target, sizes) for target in range(len(regions))]
    return (sizes, regions), torch.stack(looks)


def ratio(attention_L: Tensor, coverage: Tensor) -> Tensor:
    """The ratio of one row of attention for each target: float[C]."""
    masses = attention_L @ coverage
    index = torch.arange(len(masses))
    return attention_ratio(masses[None], index, index, len(masses))


def test_shares_of_all_sources_add_up_to_one_and_the_target_alone_has_one(backbone: Backbone) -> None:
    """Whatever a model looks at: text, padding, labels and separators are in no share.

    Where tokens are so coarse that none sees one source alone, the second is not asked.
    """
    sums, num_alone = [], 0
    for number in range(NUM_COMPOSITIONS):
        (_, regions), coverage = drawn(backbone, sequence if number % 2 else collage, number)
        generator = torch.Generator().manual_seed(number)
        attention = torch.rand(coverage.shape[1], generator=generator) ** 8
        sums.append(ratio(attention / attention.sum(), coverage).nansum())
        own = coverage[..., TARGET]
        target = number % len(regions)
        alone = (own[target] > 0.01) & (own.sum(0) - own[target] == 0)
        if alone.any():
            assert_close(ratio(alone.float(), coverage)[target], torch.tensor(1.0), atol=1e-6, why=FLOAT32)
            num_alone += 1
    assert_close(torch.stack(sums), torch.ones(len(sums)), atol=1e-4, why=FLOAT32)
    assert num_alone > NUM_COMPOSITIONS // 2, "hardly anything was asked"


def test_an_even_look_is_the_area_share(backbone: Backbone) -> None:
    """Against areas by hand: of pixels within a picture, of resized pixels among pictures."""
    for number in range(NUM_COMPOSITIONS):
        make = (sequence, collage, pic_in_pic)[number % 3]
        (sizes, regions), coverage = drawn(backbone, make, number)
        areas = [token_area(backbone, sizes, region) for region in regions]
        # the background of a picture in picture holds the inset
        union = areas[0] if make is pic_in_pic else sum(areas)
        wanted = torch.tensor([area / union for area in areas])
        even = torch.full((coverage.shape[1],), 1 / coverage.shape[1])
        assert_close(even_ratio(coverage), wanted, atol=2e-5, why=FLOAT32)
        assert_close(ratio(even, coverage), wanted, atol=2e-5, why=FLOAT32)


def token_area(backbone: Backbone, sizes: list[Size], region: Region) -> float:
    """Tokens that a region covers, from areas: its pixels over those of the model input, times the input's tokens."""
    size = sizes[region.picture]
    x0, y0, x1, y1 = region.box
    if isinstance(backbone, Ixc25Backbone):
        plan, side = backbone.tile_plan(size, len(sizes)), backbone.config.token_side
        across, down = (
            resized / extent / canvas for resized, extent, canvas in zip(plan.resized, size, plan.canvas, strict=True)
        )
        # each place is seen twice, in the overview and in a tile
        return (x1 - x0) * across * (y1 - y0) * down * (1 + plan.tiles_down * plan.tiles_across) * side**2
    if backbone.image_aspect == "pad":
        return (x1 - x0) * (y1 - y0) / max(size) ** 2
    # a crop keeps the middle square
    low = [(extent - min(size)) / 2 for extent in size]
    cut = [max(0.0, min(b, edge + min(size)) - max(a, edge)) for a, b, edge in ((x0, x1, low[0]), (y0, y1, low[1]))]
    return cut[0] * cut[1] / min(size) ** 2


def test_a_photo_that_is_looked_at_alone_has_one_whatever_its_aspect(backbone: Backbone) -> None:
    """4:3 and 1:5 alike: padding is in neither part of the ratio."""
    for size in [(640, 480), (100, 500), (333, 333)]:
        sizes = [size, (400, 300)]
        prompt = backbone.encode_prompt("<image>\n<image>\nIn Image1, what is it?", sizes)
        regions = regions_of([(number, (0, 0, *one)) for number, one in enumerate(sizes)])
        coverage = look_coverage(backbone, prompt, regions, 0, sizes)
        attention = torch.zeros(len(prompt.input_ids))
        start, stop = prompt.image_spans[0]
        attention[start:stop] = 1.0
        assert_close(ratio(attention, coverage[None]), torch.ones(1), atol=1e-6, why=FLOAT32)


def test_an_even_look_at_n_equal_images_is_one_in_n(backbone: Backbone) -> None:
    """As a sequence of photos and as a collage of them; with the white counted in, a collage of two had 0.15."""
    for count in (2, 3, 4):
        sizes = [(448, 336)] * count
        rows = regions_of([(number, (0, 0, 448, 336)) for number in range(count)])
        layout = GridLayout(count=count, cell_size=448, margin=40)
        cells = regions_of([(0, layout.place(number, (448, 336))) for number in range(count)])
        for shown, regions in ((sizes, rows), ([layout.size], cells)):
            if shown is not sizes and getattr(backbone, "image_aspect", "pad") == "crop":
                continue  # the outer cells are cut off
            prompt = backbone.encode_prompt("<image>\n" * len(shown) + "In Image2, what is it?", shown)
            coverage = look_coverage(backbone, prompt, regions, 1, shown)
            assert_close(even_ratio(coverage), torch.tensor(1 / count), atol=1e-5, why=FLOAT32)
