"""Markup, charts, samples and pictures."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from lookright.reports.charts import Whisker, histogram, interval_rows, nice_ceiling
from lookright.reports.markup import Html, page, table, tag
from lookright.reports.parts import ratio_text, score_line
from lookright.reports.pictures import data_uri, outlined
from lookright.reports.sampling import Spread
from lookright.types import Region


def test_text_is_escaped_and_markup_is_not() -> None:
    shown = tag("p", "<script>", Html("<b>x</b>"), None, class_="a", title='"quoted" & <more>')
    assert shown == '<p class="a" title="&quot;quoted&quot; &amp; &lt;more&gt;">&lt;script&gt;<b>x</b></p>'
    assert tag("br") == "<br/>" and tag("div") == "<div></div>"
    assert "&lt;i&gt;" in table(["<i>"], [["<i>", 3]]) and "<i>" not in table(["<i>"], [["<i>", 3]])


def test_a_page_needs_nothing_from_outside() -> None:
    shown = page("Title <1>", tag("p", "text"))
    assert shown.startswith("<!doctype html>") and "<title>Title &lt;1&gt;</title>" in shown
    assert not re.search(r"https?:|@import|url\(|<link|<script", shown)
    assert "prefers-color-scheme: dark" in shown


def test_histogram_heights_are_the_counts() -> None:
    drawing = ET.fromstring(histogram({"kept": [4, 0], "dropped": [6, 1]}, {0.5: "2, 3"}))
    bars = {bar.find("title").text: bar for bar in drawing.iter("rect")}
    assert sorted(bars) == ["0.00 to 0.50: 4 kept", "0.00 to 0.50: 6 dropped", "0.50 to 1.00: 1 dropped"]
    height = {name: float(bar.get("height")) for name, bar in bars.items()}
    assert height["0.00 to 0.50: 4 kept"] == pytest.approx(4 * height["0.50 to 1.00: 1 dropped"], rel=1e-4)
    kept, dropped = bars["0.00 to 0.50: 4 kept"], bars["0.00 to 0.50: 6 dropped"]
    stacked = float(dropped.get("y")) + float(dropped.get("height"))
    assert stacked == pytest.approx(float(kept.get("y")), abs=1e-3)
    labels = [text.text for text in drawing.iter("text")]
    assert "2, 3" in labels and "10" in labels
    ET.fromstring(histogram({"kept": [0, 0]}, {}))  # nothing counted yet


def test_interval_rows_are_in_place() -> None:
    rows = {
        "A <b>": [
            Whisker(value=50, low=40, high=60, series="base"),
            Whisker(value=100, low=90, high=100, series="tuned"),
        ]
    }
    drawing = ET.fromstring(interval_rows(rows))
    first, second = (float(dot.get("cx")) for dot in drawing.iter("circle"))
    low, high = next(
        (float(line.get("x1")), float(line.get("x2")))
        for line in drawing.iter("line")
        if line.get("class") == "dot-base"
    )
    assert first == pytest.approx((low + high) / 2) and second - first == pytest.approx((high - low) / 20 * 50)


@pytest.mark.parametrize(("value", "ceiling"), [(1, 1), (3, 4), (11, 20), (41, 50), (51, 100), (4001, 5000)])
def test_nice_ceiling(value: int, ceiling: int) -> None:
    assert nice_ceiling(value) == ceiling


def test_spread_is_bounded_deterministic_and_even() -> None:
    def drawn(order: range) -> list[int]:
        spread: Spread[int] = Spread(6)
        for index in order:
            spread.add("rare" if index % 100 == 7 else "common", f"id{index}", index)
        assert max(len(heap) for heap in spread._groups.values()) <= 6
        return spread.take()

    forward = drawn(range(1000))
    assert forward == drawn(range(999, -1, -1))
    assert len(forward) == 6 and sum(index % 100 == 7 for index in forward) == 3
    few: Spread[int] = Spread(6)
    few.add("a", "x", 1)
    assert few.take() == [1] and Spread(0).take() == []


def test_pictures_are_embedded_small() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8))
    uri = data_uri(image)
    assert uri.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (480, 360)
    clear = data_uri(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert Image.open(io.BytesIO(base64.b64decode(clear.split(",")[1]))).getpixel((4, 4)) == (255, 255, 255)


def test_the_target_is_outlined_over_the_others() -> None:
    regions = [
        (Region(picture=0, box=(10, 20, 60, 80), source="t"), True),
        (Region(picture=0, box=(0, 0, 100, 100), source="b"), False),
    ]
    drawing = ET.fromstring(outlined(Image.new("RGB", (100, 100)), regions, "a picture"))
    boxes = list(drawing.iter("rect"))
    assert [box.get("class") for box in boxes] == ["region", "region-target"]
    assert [float(boxes[1].get(key)) for key in ("x", "y", "width", "height")] == [10, 20, 50, 60]


def test_a_ratio_stands_beside_that_of_an_even_look() -> None:
    assert ratio_text(0.618, 1 / 3) == "0.62 (even 0.33)"
    assert ratio_text(0.5, None) == "0.50" and ratio_text(None, 0.5) is None
    line = str(score_line({"attention_ratio": 0.25, "even_ratio": 0.5, "perplexity": None}))
    assert "attention ratio 0.25 (even 0.50)" in line and "perplexity" not in line and line.count("even") == 1
