"""A small file of preference pairs and the overrides of a run on it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lookright.data.records import write_jsonl
from lookright.types import Preference, Region

WORDS = ("red", "blue", "green", "yes", "no", "circle", "triangle", "square")


@pytest.fixture(scope="session")
def pairs() -> Callable[..., Path]:
    """Write `count` pairs of two formats below a folder: pairs(folder, count, prefix)."""

    def write(folder: Path, count: int = 14, prefix: str = "pair") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "preferences.jsonl", [_pair(folder, prefix, number) for number in range(count)])
        return folder / "preferences.jsonl"

    return write


@pytest.fixture(scope="session")
def pairs_file(pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pairs."""
    return pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def small_run(llava_weights: Path, pairs_file: Path) -> list[str]:
    """Overrides of train.py that make a run of seconds."""
    return [
        f"backbone.path={llava_weights}",
        f"data.path={pairs_file}",
        "tuning.r=2",
        "tuning.alpha=4",
        "tuning.dropout=0.3",
        "optimization.learning_rate=0.01",
        "trainer.progress_bar=false",
        "data.val_fraction=0.2",
        "data.batch_size=2",
    ]


def _pair(folder: Path, prefix: str, number: int) -> Preference:
    """Two or three pictures in a row, or two in one."""
    rng = random.Random(f"{prefix}/{number}")
    sequence = number % 2 == 0
    count = rng.choice([2, 3]) if sequence else 2
    names = [f"images/{prefix}{number}_{place}.png" for place in range(count if sequence else 1)]
    size = (20, 16) if sequence else (40, 16)
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).save(folder / name)
    if sequence:
        regions = [Region(picture=place, box=(0, 0, *size), source=f"{place}") for place in range(count)]
        prompt = "".join(f"Image{place + 1}:<image>\n" for place in range(count)) + "In Image2, what color is it?"
    else:
        regions = [Region(picture=0, box=(20 * place, 0, 20 * place + 20, 16), source=f"{place}") for place in range(2)]
        prompt = "<image>\nIn Image2, what shape is it?"
    chosen, rejected = rng.sample(WORDS, 2)
    return Preference(
        id=f"{prefix}{number}",
        images=names,
        prompt=prompt,
        chosen=chosen,
        rejected=[f"{rejected} {rejected}" if number % 3 else rejected],
        format="sequence" if sequence else "grid_collage",
        target=1,
        regions=regions,
    )
