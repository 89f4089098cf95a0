"""The page and the notebook for Python: one text, whose blocks run and give what the notebook shows."""

import json
import re
from pathlib import Path

import pytest

from tests.notebook import NOTEBOOK, PAGE, notebook, parts_of

LIMIT = 100_000
"""Bytes of the notebook with its outputs."""


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_the_notebook_is_the_page(kept: dict) -> None:
    parts = parts_of(PAGE.read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in kept["cells"]] == parts
    assert (kept["nbformat"], NOTEBOOK.stat().st_size < LIMIT) == (4, True)


def test_its_cells_give_what_it_shows(kept: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = notebook(PAGE.read_text(encoding="utf-8"))
    for old, new in zip(kept["cells"], made["cells"], strict=True):
        shown, given = (cell.get("outputs", []) for cell in (old, new))
        assert [one["output_type"] for one in shown] == [one["output_type"] for one in given]
        for before, after in zip(shown, given, strict=True):
            before, after = ("".join(one.get("text", "")) for one in (before, after))
            # words are the same; figures of another processor may differ in their last digit
            assert re.sub(r"[\d.]+", "", before) == re.sub(r"[\d.]+", "", after)
            figures = [[float(part) for part in re.findall(r"\d+\.\d+", text)] for text in (before, after)]
            assert figures[0] == pytest.approx(figures[1], abs=0.02)


def test_an_example_is_ten_lines() -> None:
    for kind, text in parts_of(PAGE.read_text(encoding="utf-8")):
        if kind == "code":
            lines = [line for line in text.splitlines() if line and not line.startswith(("import ", "from "))]
            assert len(lines) <= 10, text
