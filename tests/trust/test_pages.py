"""Ids, questions, answers, names of runs and of files are text on every page, whatever they hold."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lookright.compare import main as compare
from lookright.evaluation.predictions import default_metrics
from lookright.export.card import _environment
from lookright.records.pictures import PictureFolder
from lookright.report.__main__ import main as report
from lookright.reports.examples import Example, ShownAnswer
from lookright.reports.inference import inference_html
from lookright.types import Prompt, Region
from tests.examples import noise

NASTY = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>{{7*191}}{%raw%}"
# no slash, which no file name has
NAME = "\"'><img src=x onerror=alert(1)>{{7*191}}"


class _Seen(HTMLParser):
    """Elements with what they would call or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.dangerous: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        refresh = tag == "meta" and any(name == "http-equiv" for name, _ in attrs)
        if refresh or tag in ("script", "iframe", "object", "embed", "base", "link"):
            self.dangerous.append((tag, "", ""))
        for name, value in attrs:
            fetches = name in ("src", "href", "action") and not (value or "").startswith(("data:", "#"))
            if name.startswith("on") or fetches:
                self.dangerous.append((tag, name, value or ""))


def assert_only_text(page: str) -> None:
    seen = _Seen()
    seen.feed(page)
    assert seen.dangerous == []
    assert "1337" not in page.replace("&#", ""), "no template is made of a value"
    assert "&lt;img src=x" in page


def test_the_page_of_answers(tmp_path: Path) -> None:
    noise((20, 16), 0).save(tmp_path / f"{NAME}.png")
    region = Region(picture=0, box=(0, 0, 20, 16), source=NASTY)
    prompt = Prompt(id=NASTY, images=[f"{NAME}.png"], prompt=f"<image>\n{NASTY}", ground_truth=NASTY,
                    format=NASTY, target=0, regions=[region])  # fmt: skip
    answer = ShownAnswer(text=NASTY, correct=False, attention_ratio=0.5, confidence=0.5, error_kind=NASTY)
    example = Example(
        prompt=prompt, pictures=PictureFolder(tmp_path), answers={NASTY: answer}, even_ratio=0.5, outcome=NASTY
    )
    metrics = default_metrics()
    line = {"id": NASTY, "format": NASTY, "num_images": 2, "correct": False, "ground_truth": NASTY, "prediction": NASTY}
    line |= {"attention_ratio": 0.5, "even_ratio": 0.5, "confidence": 0.5, "error_kind": NASTY, "source": NASTY}
    metrics.add(line)
    assert_only_text(inference_html(metrics.result() | {"dropped": {NASTY: 1}}, metrics, examples=[example]))


@pytest.fixture()
def runs(tmp_path: Path) -> list[Path]:
    found: list[Path] = []
    config = {"trainer": {"max_steps": NASTY}, "loss": {"alpha": 1}, "data": {"path": NASTY}}
    for name in (NAME, f"other {NAME}"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config | {"seed": len(found)}))
        summary = {"steps": 1, "metrics": {"val/loss": 0.5, NASTY: 1.0}, "objective": {"name": NASTY, "value": 1.0}}
        (folder / "summary.json").write_text(json.dumps(summary))
        line = {
            "id": NASTY,
            "format": NASTY,
            "num_images": 2,
            "correct": True,
            "ground_truth": "x",
            "prediction": NASTY,
        }
        line |= {"attention_ratio": 0.5, "even_ratio": 0.5, "confidence": 0.5, "source": NASTY}
        (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
        found.append(folder)
    return found


def test_the_page_of_a_comparison(runs: list[Path], tmp_path: Path) -> None:
    assert compare([*map(str, runs), "--output", str(tmp_path / "out"), "--draws", "100"]) == 0
    assert_only_text((tmp_path / "out" / "comparison.html").read_text())


def test_the_page_of_a_sweep(runs: list[Path], tmp_path: Path) -> None:
    assert report([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert_only_text((tmp_path / "out" / "report.html").read_text())


def test_a_card_makes_no_template_of_a_value() -> None:
    assert _environment().from_string("{{ base }}").render(base="{{7*191}}") == "{{7*191}}"
