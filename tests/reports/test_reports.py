"""The three pages, from counts to cards."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lookright.inference.metrics import Metrics
from lookright.reports.comparison import ComparedExample, comparison_html, comparison_text
from lookright.reports.generation import GenerationReport
from lookright.reports.inference import InferenceExample, InferenceReport
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Decision
from lookright.types import Footprint, Prompt, Region

LEFT, RIGHT = (Footprint(box=(left, 0, left + 16, 24), share=1.0) for left in (0, 16))
NASTY = '<script>alert("x")</script>'


class _Balance(HTMLParser):
    """Checks that every element is closed, in order; collects the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def text_of(page: str) -> str:
    """Visible text of a page that is well formed and takes nothing from outside."""
    assert not re.search(r"https?://", page)
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return " ".join(parser.text)


def make_prompt(folder: Path, index: int = 0, format_name: str = "sequence") -> Prompt:
    names = [f"{index}_{place}.png" for place in range(2)] if format_name == "sequence" else [f"{index}.png"]
    for name in names:
        Image.new("RGB", (32, 24), "teal").save(folder / name)
    regions = [Region(picture=place % len(names), box=(0, 0, 32, 24), source="s") for place in range(2)]
    placeholders = "".join(f"Image{place + 1}:<image>\n" for place in range(len(names)))
    return Prompt(
        id=f"{format_name}-{index}",
        images=names,
        prompt=f"{placeholders}In Image2, what is {NASTY}?",
        answer="circle",
        format=format_name,
        target=1,
        regions=regions,
    )


def metrics(right: int, asked: int = 50, ratio: float = 0.5) -> dict:
    found = Metrics()
    for name, num_images in (("sequence", 2), ("grid_collage", 4), ("pic_in_pic", 2), (None, 1)):
        for index in range(asked):
            correct = index < right
            kind = None if correct or name is None else "sequence_confusion"
            ratio_or_none = None if name is None else ratio
            found.add(
                format_name=name, num_images=num_images, correct=correct, attention_ratio=ratio_or_none, error_kind=kind
            )
    return found.result()


def test_generation_report(tmp_path: Path) -> None:
    report = GenerationReport(
        tmp_path, threshold=AttentionSelection().threshold, reasons=["same_answer", "attention_ratio"], num_examples=3
    )
    kept = Decision(keep=True, scores={"attention_ratio": 0.31})
    for index in range(5):
        report.add(make_prompt(tmp_path, index), NASTY, kept)
    report.add(
        make_prompt(tmp_path, 9), "Circle", Decision(keep=False, reason="same_answer", scores={"attention_ratio": 1.0})
    )
    dropped = Decision(keep=False, reason="perplexity", scores={})
    report.add(make_prompt(tmp_path, 1, "pic_in_pic"), "square", dropped)
    report.add_skipped("broken_picture", 2)
    path = tmp_path / "report.html"
    report.write(path, subtitle="seed 0")
    page = path.read_text(encoding="utf-8")
    text = text_of(page)
    assert NASTY in text and NASTY not in page
    row = re.search(r"<tr><th scope=\"row\">Sequence</th>(.*?)</tr>", page).group(1)
    # images, threshold, answered, kept, same answer, attention ratio, perplexity (found, not announced)
    assert re.findall(r"<td>(.*?)</td>", row) == ["2", "0.8", "6", "5", "1", "0", "0"]
    assert "skipped: broken picture" in text and "3 of 7, spread" in text
    # One card each outcome: two sequences with two pictures, one with one.
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count('class="region-target"') == 3


def test_generation_report_without_attention_or_pictures(tmp_path: Path) -> None:
    report = GenerationReport(tmp_path)
    prompt = make_prompt(tmp_path)
    (tmp_path / prompt.images[0]).unlink()
    report.add(prompt, "square", Decision(keep=True))
    text = text_of(report.html())
    assert f"cannot open {prompt.images[0]}" in text and "Attention ratio on the target" not in text
    text_of(GenerationReport(tmp_path).html())  # nothing happened yet


@pytest.mark.parametrize("with_heat", [True, False])
def test_inference_report(tmp_path: Path, with_heat: bool) -> None:
    report = InferenceReport(tmp_path, num_examples=2)
    for index in range(4):
        heat = [[(LEFT, 0.4), (RIGHT, 0.1)]] * 2 if with_heat and index > 1 else None
        report.add(
            InferenceExample(
                prompt=make_prompt(tmp_path, index),
                prediction=NASTY,
                correct=index % 2 == 0,
                attention_ratio=0.42,
                confidence=0.9,
                error_kind=None if index % 2 == 0 else "sequence_confusion",
                heat=heat,
            )
        )
    page = report.html(metrics(right=30))
    text = text_of(page)
    assert NASTY in text and NASTY not in page
    assert "60.0" in text and "sequence confusion" in text and "attention ratio 0.42" in text
    assert ("an even spread" in text) == with_heat
    assert page.count("<article") == 2


def test_single_images_alone(tmp_path: Path) -> None:
    found = Metrics()
    found.add(format_name=None, num_images=1, correct=True)
    assert "100.0" in text_of(InferenceReport(tmp_path).html(found.result()))


def test_comparison(tmp_path: Path) -> None:
    base, tuned = metrics(right=20, ratio=0.4), metrics(right=45, ratio=0.7)
    heat = [[(LEFT, 0.5), (RIGHT, 0.2)]] * 2
    example = ComparedExample(
        prompt=make_prompt(tmp_path),
        base=NASTY,
        tuned="circle",
        base_correct=False,
        tuned_correct=True,
        base_ratio=0.2,
        tuned_ratio=0.8,
        base_heat=heat,
        tuned_heat=heat,
    )
    page = comparison_html(base, tuned, folder=tmp_path, examples=[example], seconds={"generate": 81.6})
    text = text_of(page)
    assert NASTY not in page and f"{NASTY} (wrong)" in text and "circle (right)" in text
    assert "+50.0" in text and "82" in text and "0.40 \u2192 0.70" in text
    assert "Tuned looks here" in text and page.count("<img ") == 4
    table = comparison_text(base, tuned)
    assert re.search(r"Multi-image mean +40\.0 \[.*\] +90\.0 \[.*\] +\+50\.0 +0\.40 -> 0\.70", table)
    assert len({len(line) for line in table.splitlines()[:4]}) == 1
