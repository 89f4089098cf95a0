"""The four pages, from counts to cards."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from lookright.config.made_by import MadeBy
from lookright.evaluation.comparison import compare_runs
from lookright.evaluation.predictions import default_metrics
from lookright.records.pictures import PictureFolder
from lookright.reports.comparison import comparison_html, comparison_text, write_comparison
from lookright.reports.examples import Example, ShownAnswer
from lookright.reports.generation import GenerationReport
from lookright.reports.inference import inference_html
from lookright.reports.page import render
from lookright.reports.training import HeldOutPair, read_columns, training_html
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Decision
from lookright.types import Footprint, Preference, Prompt, Region

LEFT, RIGHT = (Footprint(box=(left, 0, left + 16, 24), share=1.0) for left in (0, 16))
MADE_BY = MadeBy(
    command="python infer.py <b>",
    model="tiny",
    adapter=None,
    data="a.jsonl",
    decoding="greedy",
    code="1, commit a",
    date="t",
)
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
        ground_truth="circle",
        format=format_name,
        target=1,
        regions=regions,
    )


def metrics(right: int, asked: int = 50, ratio: float = 0.5) -> dict:
    found = default_metrics()
    for name, num_images in (("sequence", 2), ("grid_collage", 4), ("pic_in_pic", 2), (None, 1)):
        for index in range(asked):
            correct = index < right
            kind = None if correct or name is None else "sequence_confusion"
            ratio_or_none = None if name is None else ratio
            line = {"format": name, "num_images": num_images, "correct": correct, "attention_ratio": ratio_or_none}
            found.add(line | {"error_kind": kind, "ground_truth": "red", "prediction": "red" if correct else "blue"})
    return found.result()


def test_a_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = GenerationReport(PictureFolder(tmp_path)).html(MADE_BY)
    assert page.startswith("<!doctype html>") and "<title>Generated preference pairs</title>" in page
    assert not re.search(r"https?:|@import|url\(|<link|<script", page)
    assert "prefers-color-scheme: dark" in page and "overflow-x: auto" in page


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("generation", figures={})


def test_generation_report(tmp_path: Path) -> None:
    report = GenerationReport(
        PictureFolder(tmp_path),
        threshold=AttentionSelection().threshold,
        reasons=["same_answer", "attention_ratio"],
        num_examples=3,
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
    report.write(path, MADE_BY)
    page = path.read_text(encoding="utf-8")
    text = text_of(page)
    assert NASTY in text and NASTY not in page
    row = re.search(r"<tr><th scope=\"row\">Sequence</th>(.*?)</tr>", page).group(1)
    # images, threshold, answered, kept, same answer, attention ratio, perplexity (found, not announced)
    assert re.findall(r"<td>(.*?)</td>", row) == ["2", "0.8", "6", "5", "1", "0", "0"]
    assert "skipped: broken picture" in text and "3 of 7, drawn" in text
    # one card each outcome: two sequences with two pictures, one with one
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count('class="region-target"') == 3
    assert "python infer.py <b>" in text and "1, commit a" in text and str(tmp_path) not in page


def test_generation_report_without_attention_or_pictures(tmp_path: Path) -> None:
    report = GenerationReport(PictureFolder(tmp_path))
    prompt = make_prompt(tmp_path)
    (tmp_path / prompt.images[0]).unlink()
    report.add(prompt, "square", Decision(keep=True))
    text = text_of(report.html())
    assert f"cannot open {prompt.images[0]}" in text and "Attention ratio on the target" not in text
    text_of(GenerationReport(PictureFolder(tmp_path)).html())  # nothing happened yet


def test_generation_report_with_several_answers(tmp_path: Path) -> None:
    report = GenerationReport(PictureFolder(tmp_path), reasons=["same_answer"], num_examples=5)
    dropped = Decision(keep=False, reason="repeated_answer")
    outcomes = [Decision(keep=True), dropped, Decision(keep=True), Decision(keep=False, reason="same_answer")]
    for index, answers in enumerate((outcomes, outcomes[1:2] * 4)):
        for number, decision in enumerate(answers):
            report.add(make_prompt(tmp_path, index), f"square {number}", decision, number)
    page = report.html()
    text = " ".join(text_of(page).split())
    # two prompts, eight answers of which one is right and two are kept, both for the first prompt
    for figure in ("2 prompts answered", "8 answers", "7 wrong answers", "2 preference pairs", "50.0 % prompts with"):
        label, value = figure.split(" ", 1)[1], figure.split(" ", 1)[0]
        assert f"{figure}" in text or f"{label} {value}" in text, (figure, text[:400])
    row = re.search(r"<tr><th scope=\"row\">Sequence</th>(.*?)</tr>", page).group(1)
    assert re.findall(r"<td>(.*?)</td>", row) == ["2", "-", "8", "2", "1", "5"]
    assert "5 of 8, drawn" in text and "answer 3" in text


def example(folder: Path, index: int, heat: bool, **answers: str) -> Example:
    """Right where an answer is `circle`."""
    maps = [[(LEFT, 0.4), (RIGHT, 0.1)]] * 2 if heat else None
    return Example(
        prompt=make_prompt(folder, index),
        pictures=PictureFolder(folder),
        answers={
            name: ShownAnswer(
                text=text,
                correct=text == "circle",
                attention_ratio=0.42,
                confidence=0.9,
                error_kind=None if text == "circle" else "sequence_confusion",
                heat=maps,
            )
            for name, text in answers.items()
        },
        even_ratio=0.5,
    )


@pytest.mark.parametrize("with_heat", [True, False])
def test_inference_report(tmp_path: Path, with_heat: bool) -> None:
    examples = [example(tmp_path, index, with_heat, Model=text) for index, text in enumerate(["circle", NASTY])]
    page = inference_html(metrics(right=30), examples=examples, made_by=MADE_BY)
    text = text_of(page)
    assert NASTY in text and NASTY not in page
    assert "60.0" in text and "sequence confusion" in text and "attention ratio 0.42 (even 0.50)" in text
    assert ("Model looks here" in text) == ("an even spread" in text) == with_heat
    # each picture once as it is, and once under its map
    assert page.count("<article") == 2 and page.count("data:image") == (8 if with_heat else 4)
    assert page.index("chip bad") < page.index("chip good")
    assert "a.jsonl" in text


def test_single_images_alone() -> None:
    found = default_metrics()
    found.add({"format": None, "num_images": 1, "correct": True, "confidence": 0.9})
    assert "100.0" in text_of(inference_html(found.result()))


def runs(folder: Path, **said: str) -> dict[str, Path]:
    """Folders of infer.py whose answers to ten questions are named by letters: right, other image, yes."""
    words = {"r": "circle", "o": "square", "y": "yes"}
    for name, letters in said.items():
        (folder / name).mkdir()
        lines = [
            {
                "id": f"q{number}",
                "format": "sequence" if number < 5 else "single_image",
                "num_images": 2 if number < 5 else 1,
                "source": "shapes & <things>",
                "source_picture": f"{number}",
                "ground_truth": "circle",
                "chance": 0.5 if number < 5 else None,
                "prediction": words[letter],
                "correct": letter == "r",
                "attention_ratio": 0.7 if letter == "r" else 0.4,
                "even_ratio": 0.5,
                "error_kind": {"r": None, "o": "sequence_confusion", "y": "other"}[letter],
            }
            for number, letter in enumerate(letters)
        ]
        (folder / name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: folder / name for name in said}


def test_comparison_of_three_runs(tmp_path: Path) -> None:
    folders = runs(tmp_path, base="yoorrrrrrr", sft="oorrrrrrrr", tuned="rrrrrrrrrr")
    MADE_BY.write(folders["tuned"])
    one = example(tmp_path, 0, True, base=NASTY, tuned="circle")
    path = tmp_path / "report.html"
    found = write_comparison(path, folders, "base", examples=[one], seconds={"generate": 81.6}, notes=["Seed 0."])
    page = path.read_text()
    text = " ".join(text_of(page).split())
    assert NASTY not in page and f"{NASTY} (wrong)" in text and "circle (right)" in text
    assert "+60.0 points, multi-image mean, tuned against base" in text and "82" in text and "Seed 0." in text
    # sequence: 3 questions gained, none lost: 2 / 8
    assert "+3 -0, p = 0.250" in text
    row = re.search(r"<h3>Answers that another shown image has</h3>.*?</table>", page, re.S).group(0)
    assert "67 % of the wrong" in row and "100 % of the wrong" in row and "none wrong" in row
    assert "shapes &amp; &lt;things&gt;" in page and "0.52 \u2192 0.70 (even 0.50)" in text
    assert "base looks here" in text and "tuned looks here" in text and page.count("data:image") == 6
    assert "1, commit a" in text and "not known: made by an earlier version" in text and str(tmp_path) not in page
    assert comparison_html(found) == comparison_html(compare_runs(folders, "base"))


def test_comparison_in_a_terminal(tmp_path: Path) -> None:
    table = comparison_text(compare_runs(runs(tmp_path, base="yoorrrrrrr", tuned="rrrrrrrrro"), "base"))
    lines = table.splitlines()
    assert re.search(r"accuracy, % +questions +chance +base +tuned$", lines[0])
    assert re.search(r"Sequence +5 +50\.0 +40\.0 \[.*\] +100\.0 \[", lines[1])
    assert re.search(r"Single image +5 +- +100\.0 \[.*\] +80\.0 \[", lines[2])
    assert re.search(r"Sequence +\+60\.0 \[-.*, \+.*\]$", table, re.M) and "+3 -0, p = 0.250" in table
    assert re.search(r"Sequence +2 of 3 wrong +0 of 0 wrong$", table, re.M)
    assert re.search(r"Sequence +0\.500 +0\.520 +0\.700$", table, re.M)
    assert max(map(len, lines)) <= 100


def pair(folder: Path, index: int, before: float | None, after: float) -> HeldOutPair:
    prompt = make_prompt(folder, index)
    record = Preference(
        id=prompt.id,
        images=prompt.images,
        prompt=prompt.prompt,
        chosen="circle",
        rejected=["square", NASTY],
        format="sequence",
        target=1,
        regions=prompt.regions,
    )
    known = {"logps_margin": after, "attention_ratio": float("nan")}
    known |= {} if before is None else {"reference_logps_margin": before}
    return HeldOutPair(record=record, pictures=PictureFolder(folder), metrics=known)


SUMMARY = {"steps": 4, "examples": 12, "held_out": 2, "seconds": 3.5, "dropped": {"too_long": 1}}


def test_training_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,train/loss,train/sequence/attention_ratio,train/sequence/even_ratio,val/loss,train/reward_margin\n"
        "0,0,0.9,0.4,0.5,,nan\n1,0,0.7,0.6,0.5,,0.2\n1,0,,,,0.8,\n"
    )
    columns = read_columns(tmp_path / "metrics.csv")
    assert columns["train/loss"] == [(0.0, 0.9), (1.0, 0.7)] and columns["val/loss"] == [(1.0, 0.8)]
    assert columns["train/reward_margin"] == [(1.0, 0.2)]
    metrics = {"val/loss": 0.8, "val/sequence/loss": 0.75, "val/reward_accuracy": 0.5, "train/loss": 0.7}
    pairs = [pair(tmp_path, 0, -1.0, 2.5), pair(tmp_path, 1, 1.0, -0.5), pair(tmp_path, 2, 1.0, 0.5)]
    page = training_html(
        columns, SUMMARY | {"metrics": metrics}, settings={"loss": "alpha=1"}, pairs=pairs, made_by=MADE_BY
    )
    text = " ".join(text_of(page).split())
    assert NASTY not in page and text.count("Rejected") == 6
    assert "-1.00 before, +2.50 after nats" in text and "before: ranked wrong after: ranked right" in text
    assert "held-out reward accuracy" in text and "50.0 %" in text and "dropped: too long" in text
    assert "at the last validation, step 1." in text and "alpha=1" in text and "greedy" in text
    titles = re.findall(r'<div class="chart"><h3>(.*?)</h3>', page)
    assert titles == ["Loss", "Reward margin", "Attention ratio, sequence"]
    assert page.count('class="curve even') == 1 and page.count('class="curve line') == 3
    row = re.search(r'<tr><th scope="row">loss</th>(.*?)</tr>', page).group(1)
    assert re.findall(r"<td>(.*?)</td>", row) == ["0.800", "0.750"]


def test_training_page_without_validation(tmp_path: Path) -> None:
    """No held-out pair, no reference, no logged step."""
    page = training_html({}, SUMMARY | {"metrics": {}}, settings={})
    text = text_of(page)
    assert "holds nothing yet" in text and "Held-out metrics" not in text and "Held-out pairs" not in text
    alone = training_html({}, SUMMARY | {"metrics": {}}, settings={}, pairs=[pair(tmp_path, 0, None, 0.5)])
    assert "+0.50 after nats" in text_of(alone) and "before:" not in text_of(alone)
    assert read_columns(tmp_path / "nowhere.csv") == {}
