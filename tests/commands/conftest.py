"""A tiny source of single-image questions and the overrides of a run on it."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image

from lookright.commands.generate import generate

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
Run = Callable[..., Path]


def write_source(folder: Path, num_pictures: int = 12) -> Path:
    """LLaVA json about pictures of one colour each, with two questions a picture."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(num_pictures):
        colour = list(COLOURS)[number % 3]
        size = (16 + 4 * (number % 4), 20)
        Image.new("RGB", size, COLOURS[colour]).save(folder / "pictures" / f"{number}.png")
        for question, answer in (("What color is it?", colour), ("Is it red?", "yes" if colour == "red" else "no")):
            turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            rows.append({"id": f"{number}", "image": f"{number}.png", "conversations": turns})
    random.Random(0).shuffle(rows)
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "llava")


@pytest.fixture(scope="session")
def settings(llava_weights: Path, source_folder: Path) -> list[str]:
    """Twenty prompts in batches of four."""
    return [
        f"backbone.path={llava_weights}",
        "source=llava_json",
        f"source.train_json={source_folder / 'rows.json'}",
        f"source.image_folder={source_folder / 'pictures'}",
        "companions=same_question",
        "composers.grid_collage.cell_size=24",
        "composers.grid_collage.margin=12",
        "num_prompts=20",
        "batch_size=4",
        "decode.max_new_tokens=4",
        "report_examples=3",
    ]


@pytest.fixture(scope="session")
def run(composed: Callable[..., DictConfig], settings: list[str]) -> Run:
    """Run generate.py into a folder with overrides and return it: run(folder, "stage=compose")."""

    def make(folder: Path, *overrides: str) -> Path:
        generate(composed("generate", *settings, f"output={folder}", *overrides))
        return folder

    return make


@pytest.fixture(scope="session")
def unbroken(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages in one go."""
    return run(tmp_path_factory.mktemp("unbroken"))
