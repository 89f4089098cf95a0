"""The table over several seeds, from answers made by hand."""

import json
from pathlib import Path

import pytest

from lookright.demo import commands
from lookright.demo.results import pool, results_table

FORMATS = ("sequence", "grid_collage", "pic_in_pic", "single_image")
NUM_QUESTIONS = 10


def write_answers(folder: Path, name: str, seed: int, num_right: int) -> None:
    """Ten questions a format, the first `num_right` of them right, the others with another image's answer."""
    target = commands.answers_folder(name, folder, seed)
    target.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": f"{kind}-{number}",
            "format": kind,
            "num_images": 1 if kind == "single_image" else 2,
            "answer": "red",
            "prediction": "red" if number < num_right else "blue",
            "correct": number < num_right,
            "attention_ratio": 0.25,
            "even_ratio": 0.5,
            "error_kind": None if number < num_right else "sequence_confusion",
            "source": "drawn",
            "source_picture": f"{number}",
            "chance": 0.5,
        }
        for kind in FORMATS
        for number in range(NUM_QUESTIONS)
    ]
    (target / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Base 4 of 10 right, tuned 8 and 6 in two seeds, controls 5."""
    write_answers(tmp_path, "base", 0, 4)
    for seed in (0, 1):
        for tuning in commands.CONTROLS:
            write_answers(tmp_path, tuning.name, seed, 5)
        write_answers(tmp_path, "tuned", seed, 8 - 2 * seed)
    return tmp_path


def test_every_question_comes_once_a_seed(folder: Path) -> None:
    lines = [json.loads(line) for line in (pool(folder, "tuned", [0, 1]) / "predictions.jsonl").open()]
    assert len(lines) == len({line["id"] for line in lines}) == 2 * len(FORMATS) * NUM_QUESTIONS
    base = [json.loads(line) for line in (pool(folder, "base", [0, 1]) / "predictions.jsonl").open()]
    assert [line["id"] for line in base] == [line["id"] for line in lines]


def test_rows_are_means_over_seeds_and_differences_are_paired(folder: Path) -> None:
    rows = [line.split(" | ") for line in results_table(folder, "tiny_llava", [0, 1]).splitlines()]
    # the rows of accuracies come first, those of differences have the same names
    found = {row[0]: row[1:] for row in reversed(rows)}
    assert found["| base"][:6] == ["40.0"] * 5 + ["6 + 6 = 12"]
    # 8 and 6 of 10: 70 %, and 2 and 4 answers of another image
    assert found["| tuned"][:6] == ["70.0"] * 5 + ["3 + 3 = 6"]
    assert found["| a shown image at random"][0] == "50.0"
    differences = [row for row in rows if row[0] == "| base" and row[1].startswith("+")]
    assert len(differences) == 1 and all(cell.startswith("+30.0 [+") for cell in differences[0][1:])
    assert found["| sequence"][0] == "6 to 2 (-67 %), p = 0.1" and found["| sequence"][1].startswith("6 to 4 (-33 %)")
