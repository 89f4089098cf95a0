"""`python -m lookright.compare`: finished folders become csv, markdown and a page."""

import csv
from pathlib import Path

import pytest

from lookright.compare import COLUMNS, main, named
from lookright.errors import ConfigError
from lookright.evaluation.paired import Bootstrap, Change, bootstrap_difference
from tests.evaluation.test_comparison import BASE, FACTS, TUNED, line, write_run


def runs(folder: Path) -> list[str]:
    """Two pictures, of which questions 0 to 3 and 4, 5 are about."""
    pictures = ["p", "p", "p", "p", "r", "r", "s"]
    paths = []
    for name, said in (("base", BASE), ("tuned", TUNED)):
        facts = [{**FACTS[number], "source_picture": pictures[number]} for number in range(7)]
        lines = [line(number, text, **facts[number]) for number, text in enumerate(said)]
        paths.append(str(write_run(folder / name, lines)))
    return paths


def test_three_files_with_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*runs(tmp_path), "--output", str(tmp_path / "out"), "--draws", "500", "--seed", "3"]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert list(rows[0]) == list(COLUMNS)
    (row,) = [one for one in rows if (one["source"], one["group"], one["measure"], one["run"]) ==
              ("", "sequence", "accuracy", "tuned")]  # fmt: skip
    assert (row["num_questions"], row["value"], row["against_value"], row["difference"]) == (
        "4",
        "75.0",
        "25.0",
        "50.0",
    )
    assert (row["gained"], row["lost"], float(row["p_value"])) == ("3", "1", 10 / 16)
    # one picture alone: every draw is the same
    assert row["bootstrap_low"] == row["bootstrap_high"] == "50.0"
    (mean,) = [one for one in rows if (one["source"], one["group"], one["measure"], one["run"]) ==
               ("", "multi_image", "accuracy", "tuned")]  # fmt: skip
    changes = [Change(value=value, stratum="sequence", cluster="shapes/p") for value in (-1, 1, 1, 1)]
    changes += [Change(value=value, stratum="grid_collage", cluster="clothes/r") for value in (1, 0)]
    drawn = bootstrap_difference(changes, Bootstrap(num_draws=500, seed=3))
    assert float(mean["bootstrap_low"]) == pytest.approx(100 * drawn.low)
    assert {one["source"] for one in rows} == {"", "clothes", "shapes"}
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "--draws 500 --seed 3" in text and "| +3 -1 | p = 0.625 |" in text
    accuracy, *others = text.split("\n### ")[1:]
    assert "| Single image |" in accuracy and "|  | questions | base | run | its value | points |" in accuracy
    # of one image nothing is mixed up
    assert len(others) == 2 and not any("Single image" in one for one in others)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "bootstrap 50.0 to 50.0" in page.replace("+", "") and "a point takes" in page
    assert "comparison.html" in capsys.readouterr().out


def test_names_of_runs(tmp_path: Path) -> None:
    for name in ("a/eval", "b/eval", "x=y"):
        (tmp_path / name).mkdir(parents=True)
    assert list(named([f"{tmp_path}/a/eval", f"{tmp_path}/b/eval", f"tuned={tmp_path}/c"])) == [
        "a/eval",
        "b/eval",
        "tuned",
    ]
    assert list(named([f"{tmp_path}/x=y", f"{tmp_path}/a"])) == ["x=y", "a"]
    with pytest.raises(ConfigError, match="is given twice"):
        named([f"{tmp_path}/a", f"{tmp_path}/a"])


def test_mistakes_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = runs(tmp_path)
    assert main([paths[0], str(tmp_path / "none")]) == 2
    assert "holds no predictions.jsonl" in capsys.readouterr().err
    assert main([*paths, "--draws", "5"]) == 2 and main([paths[0]]) == 2


def test_runs_by_different_rules_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_run(tmp_path / "base", [line(0, "red")])
    exact = write_run(tmp_path / "exact", [line(0, "red", rule="exact")])
    assert main([str(base), str(exact)]) == 2
    assert "matched question q0 by the rules contained and exact" in capsys.readouterr().err
