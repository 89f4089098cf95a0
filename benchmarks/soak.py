"""Generate, train and answer again and again in one process: python -m benchmarks.soak --minutes 30.

Each round runs `generate.py`, `train.py` and `infer.py` as functions on a model of random weights that takes seconds,
in folders of its own, which are removed. Behind each round stand the memory of the process (RSS, MiB), its open files,
its threads, its child processes and what lies in the folder of temporary files. The first rounds (--warm) are left out:
libraries fill their caches. The line through the others may rise by --mib-a-round at most, the counts may not rise at
all from the first quarter to the last. Ends with 1 where something rises, and tells what is open then.
"""

import argparse
import contextlib
import gc
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from benchmarks.kills import small_model
from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.config.console import quiet
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.schema import register

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
NUM_PICTURES = 12
FEWEST = 4
"""Rounds behind the warm ones that a slope takes."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Held:
    """What the process holds behind a round."""

    mib: float
    files: int
    threads: int
    children: int
    temporary: int


def held(temporary: Path) -> Held:
    """As the kernel counts it."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    tasks = list(Path("/proc/self/task").iterdir())
    return Held(
        mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        # less the one that lists them
        files=len(list(Path("/proc/self/fd").iterdir())) - 1,
        threads=len(tasks),
        children=sum(len((task / "children").read_text().split()) for task in tasks),
        temporary=sum(1 for _ in temporary.rglob("*")),
    )


def _open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        # the one that lists them is gone
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(link)


def small_source(folder: Path) -> list[str]:
    """Questions about pictures of one colour each, as overrides of `generate.py`."""
    (folder / "pictures").mkdir(parents=True)
    rng, rows = random.Random(0), []
    for number in range(NUM_PICTURES):
        colour = rng.choice(list(COLOURS))
        Image.new("RGB", (20, 16 + number), COLOURS[colour]).save(folder / "pictures" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": colour}]
        rows.append({"id": f"{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(rows))
    return [
        "source=llava_json",
        f"source.train_json={folder / 'rows.json'}",
        f"source.image_folder={folder / 'pictures'}",
        "composers.grid_collage.cell_size=24",
        "composers.grid_collage.margin=12",
        "num_prompts=16",
    ]


def one_round(model: Path, source: Sequence[str], folder: Path) -> None:
    """Pairs, a run on them, and answers of its adapter, in a folder that is gone afterwards."""
    few = [f"backbone.path={model}", "decode.max_new_tokens=3", "batch_size=4"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pairs = folder / "pairs"
        generate(_composed("generate", *few, *source, "selection=random", f"output={pairs}", "report_examples=2"))
        data = [f"backbone.path={model}", f"data.path={pairs / 'preferences.jsonl'}", "data.val_fraction=0.25"]
        run = ["trainer.progress_bar=false", "trainer.max_epochs=2", "data.batch_size=2", "tuning.r=2"]
        train(_composed("train", *data, *run, f"output={folder / 'run'}"))
        asked = [f"data.path={pairs / 'instructions.jsonl'}", f"adapter={folder / 'run' / 'adapter'}", "overlays=2"]
        infer(_composed("infer", *few, *asked, f"output={folder / 'answers'}"))
    shutil.rmtree(folder)


def _composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def slope(values: Sequence[float]) -> float:
    """Rise a round of the least-squares line."""
    centre = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    spread = sum((number - centre) ** 2 for number in range(len(values)))
    return sum((number - centre) * (value - mean) for number, value in enumerate(values)) / spread


def risen(rounds: Sequence[Held], mib_a_round: float) -> list[str]:
    """What rises from round to round, a sentence each; nothing where all is flat."""
    found = []
    rise = slope([one.mib for one in rounds])
    if rise > mib_a_round:
        found.append(f"memory rises by {rise:.2f} MiB a round, more than {mib_a_round:g}")
    quarter = max(1, len(rounds) // 4)
    for name in [field.name for field in fields(Held) if field.name != "mib"]:
        before, after = (max(getattr(one, name) for one in part) for part in (rounds[:quarter], rounds[-quarter:]))
        if after > before:
            found.append(f"{name} rise from {before} to {after}")
    return found


def soak(minutes: float, warm: int, work: Callable[[int], None], temporary: Path) -> list[Held]:
    """Work for so long, and for rounds enough to judge by; returns what is held behind each, the warm ones too."""
    rounds: list[Held] = []
    started = time.monotonic()
    while time.monotonic() - started < 60 * minutes or len(rounds) < warm + FEWEST:
        work(len(rounds))
        rounds.append(held(temporary))
        print(f"{time.monotonic() - started:6.0f} s  round {len(rounds):3}: {_told(rounds[-1])}", flush=True)
    return rounds


def _told(one: Held) -> str:
    values = asdict(one)
    return f"{values.pop('mib'):.1f} MiB, " + ", ".join(f"{value} {name}" for name, value in values.items())


def main() -> None:
    """Soak, and say what rises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm", type=int, default=10, help="rounds that are not judged")
    parser.add_argument("--mib-a-round", type=float, default=0.25)
    given = parser.parse_args()
    quiet()
    register()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as own:
        folder, temporary = Path(scratch), Path(own)
        # what libraries leave in temporary files is counted
        tempfile.tempdir = str(temporary)
        model, source = small_model(folder), small_source(folder / "source")
        rounds = soak(
            given.minutes, given.warm, lambda number: one_round(model, source, folder / f"{number}"), temporary
        )
        tempfile.tempdir = None
    judged = rounds[given.warm :]
    found = risen(judged, given.mib_a_round)
    print(f"{len(judged)} rounds judged, memory {slope([one.mib for one in judged]):+.3f} MiB a round")
    if found:
        print("open:", ", ".join(sorted(_open_files())))
    print("\n".join(found) or "flat")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
