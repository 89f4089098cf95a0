"""What pages are made of: charts, cells, samples and pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookright.config.made_by import MadeBy
from lookright.evaluation.intervals import Estimate
from lookright.records.pictures import PictureFolder
from lookright.reports.cells import made_by_entries, p_text, ratio_text, score_line, signed, with_range
from lookright.reports.charts import (
    MOST_POINTS,
    Curve,
    IntervalMark,
    Mark,
    curves,
    histogram,
    interval_rows,
    nice_ceiling,
    nice_ticks,
    thinned,
)
from lookright.reports.pictures import data_uri, heat_pictures, prompt_pictures
from lookright.reports.sampling import StratifiedSample
from lookright.types import Footprint, Prompt, Region


def number_of(mark: Mark, key: str) -> float:
    return float(mark.attributes[key])


def test_histogram_heights_are_the_counts() -> None:
    drawing = histogram("Sequence", {"kept": [4, 0], "dropped": [6, 1]}, {0.5: "2, 3"})
    bars = {mark.text: mark for mark in drawing.marks if mark.shape == "rect"}
    assert sorted(bars) == ["0.00 to 0.50: 4 kept", "0.00 to 0.50: 6 dropped", "0.50 to 1.00: 1 dropped"]
    height = {name: number_of(bar, "height") for name, bar in bars.items()}
    assert height["0.00 to 0.50: 4 kept"] == pytest.approx(4 * height["0.50 to 1.00: 1 dropped"], rel=1e-4)
    kept, dropped = bars["0.00 to 0.50: 4 kept"], bars["0.00 to 0.50: 6 dropped"]
    stacked = number_of(dropped, "y") + number_of(dropped, "height")
    assert stacked == pytest.approx(number_of(kept, "y"), abs=1e-3)
    labels = [mark.text for mark in drawing.marks if mark.shape == "text"]
    assert "2, 3" in labels and "10" in labels
    histogram("nothing counted yet", {"kept": [0, 0]}, {})


def test_interval_rows_are_in_place() -> None:
    rows = {
        "A": [IntervalMark(value=50, low=40, high=60, series=0), IntervalMark(value=100, low=90, high=100, series=1)]
    }
    drawing = interval_rows("Accuracy", rows)
    first, second = (number_of(mark, "cx") for mark in drawing.marks if mark.shape == "circle")
    line = next(mark for mark in drawing.marks if mark.attributes.get("class") == "whisker s0")
    low, high = number_of(line, "x1"), number_of(line, "x2")
    assert first == pytest.approx((low + high) / 2) and second - first == pytest.approx((high - low) / 20 * 50)


def test_curves_share_a_scale() -> None:
    """Points at known shares of both axes; dots for what is measured now and then."""
    lines = [
        Curve(name="train", points=[(0, 0.0), (10, 1.0)], series=0),
        Curve(name="val", points=[(5, 0.5)], series=1, kind="dots"),
        Curve(name="even", points=[(0, 0.25), (10, 0.25)], series=0, kind="even"),
    ]
    drawing = curves("Loss", lines)
    drawn = {mark.text: mark for mark in drawing.marks if mark.shape in ("polyline", "circle")}
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in drawn["train"].attributes["points"].split())
    assert (number_of(drawn["val"], "cx"), number_of(drawn["val"], "cy")) == pytest.approx(
        ((x0 + x1) / 2, (y0 + y1) / 2)
    )
    assert y1 < y0 and drawn["even"].attributes["class"] == "curve even s0"
    assert {mark.text for mark in drawing.marks if mark.shape == "text"} >= {"0", "10", "0.5", "1", "step"}
    assert curves("Loss", [Curve(name="x", points=[], series=0)]) is None
    few = [Curve(name="val", points=[(3, 2.0)], series=0), Curve(name="even", points=[(3, 1.0)], series=1, kind="even")]
    alone = {mark.text: mark for mark in curves("Ratio", few, last=6).marks if mark.shape in ("polyline", "circle")}
    # a point is a dot in its place, and what it compares with a line across
    assert number_of(alone["val"], "cx") == pytest.approx((x0 + x1) / 2)
    ends = [point.split(",") for point in alone["even"].attributes["points"].split()]
    assert [float(x) for x, _ in ends] == pytest.approx([x0, x1]) and ends[0][1] == ends[1][1]


def test_long_curves_are_means_of_neighbours() -> None:
    points = [(float(x), float(x % 2)) for x in range(2 * MOST_POINTS)]
    found = thinned(points)
    assert len(found) == MOST_POINTS and {y for _, y in found} == {0.5} and found[0][0] == 0.5
    assert thinned(points[:3]) == points[:3] and thinned([]) == []


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.31, 0.69, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (-0.2, 3.7, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]),
        (2.0, 2.0, [2.0, 2.5]),
        (0.0, 0.0, [0.0, 0.5]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("value", "ceiling"), [(1, 1), (3, 4), (11, 20), (41, 50), (51, 100), (4001, 5000)])
def test_nice_ceiling(value: int, ceiling: int) -> None:
    assert nice_ceiling(value) == ceiling


def test_spread_is_bounded_deterministic_and_even() -> None:
    def drawn(order: range) -> list[int]:
        spread: StratifiedSample[int] = StratifiedSample(6)
        for index in order:
            spread.add("rare" if index % 100 == 7 else "common", f"id{index}", index)
        assert max(len(heap) for heap in spread._groups.values()) <= 6
        return spread.take()

    forward = drawn(range(1000))
    assert forward == drawn(range(999, -1, -1))
    assert len(forward) == 6 and sum(index % 100 == 7 for index in forward) == 3
    # fewer places than groups: no group is ahead by its name
    chosen: StratifiedSample[int] = StratifiedSample(2)
    for index in range(1000):
        chosen.add(f"group{index % 10}", f"id{index}", index % 10)
    assert chosen.take() != [0, 1] and len(set(chosen.take())) == 2
    few: StratifiedSample[int] = StratifiedSample(6)
    few.add("a", "x", 1)
    assert few.take() == [1] and StratifiedSample(0).take() == []


def picture_of(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def decoded(uri: str) -> Image.Image:
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_pictures_are_embedded_small() -> None:
    assert decoded(data_uri(picture_of((1200, 900)))).size == (480, 360)
    clear = decoded(data_uri(Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert clear.getpixel((4, 4)) == (255, 255, 255)


@pytest.fixture()
def portrait(tmp_path: Path) -> Prompt:
    picture_of((100, 200)).save(tmp_path / "one.png")
    regions = [Region(picture=0, box=box, source="s") for box in ((10, 20, 60, 80), (0, 0, 100, 200))]
    return Prompt(
        id="x",
        images=["one.png"],
        prompt="<image>\nWhat?",
        ground_truth="a",
        format="pic_in_pic",
        target=0,
        regions=regions,
    )


def test_the_target_is_outlined_over_the_others(portrait: Prompt, tmp_path: Path) -> None:
    (shown,) = prompt_pictures(portrait, PictureFolder(tmp_path)).pictures
    assert [region.is_target for region in shown.regions] == [False, True]
    target = shown.regions[1]
    assert (target.x, target.y, target.width, target.height) == (10, 20, 50, 60)
    assert (shown.width, shown.height) == (100, 200) and decoded(shown.uri).size == (100, 200)


def test_models_share_the_scale_of_a_prompt(portrait: Prompt, tmp_path: Path) -> None:
    """One looks at the upper half with 3 times the even spread of the lower, the other evenly."""
    halves = [Footprint(box=(0, top, 100, top + 100), share=1.0) for top in (0, 100)]
    heat = {"one": [[(halves[0], 0.75), (halves[1], 0.25)]], "other": [[(halves[0], 0.2), (halves[1], 0.2)]]}
    rows = heat_pictures(portrait, PictureFolder(tmp_path), heat)
    assert rows.peak == 2.0 and [row.title for row in rows.rows] == ["one", "other"]
    one, other = (np.asarray(decoded(row.pictures[0].uri), float).mean(2) for row in rows.rows)
    assert one.shape == (480, 240)
    assert one[:200].mean() > other[:200].mean() > one[280:].mean()
    # boxes keep the picture's own pixels
    assert rows.rows[0].pictures[0].width == 100


def test_numbers_as_text() -> None:
    assert ratio_text(0.618, 1 / 3) == "0.62 (even 0.33)"
    assert ratio_text(0.5, None) == "0.50" and ratio_text(None, 0.5) is None
    line = score_line({"attention_ratio": 0.25, "even_ratio": 0.5, "perplexity": None})
    assert line == "attention ratio 0.25 (even 0.50)"
    assert [signed(value) for value in (0.04, -0.04, 2.0, -3.25)] == ["0.0", "0.0", "+2.0", "-3.2"]
    assert [p_text(value) for value in (0.0004, 0.0005, 0.0312, 1.0)] == [
        "p < 0.001",
        "p = 0.001",
        "p = 0.031",
        "p = 1.000",
    ]
    cell = with_range(Estimate(value=0.5, low=0.25, high=0.75, count=3), 2)
    assert (cell.text, cell.note) == ("0.50", "0.25 to 0.75")
    record = MadeBy(command="c", model="m", adapter=None, data="d", decoding=None, code="v", date="t")
    assert made_by_entries(record) == {"Command": "c", "Model": "m", "Data": "d", "Code": "v", "Date": "t"}
