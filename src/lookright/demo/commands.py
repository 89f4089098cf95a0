"""The command lines that the demo runs: the same three commands that a user types."""

from dataclasses import dataclass
from pathlib import Path

SOURCES = {"easy_vqa": ["source=easy_vqa", "source.yes_no=false"], "fashion_mnist": ["source=fashion_mnist"]}
"""Questions answered yes or no are left out: a wrong answer there says nothing about where the model looked."""
TRAIN_PROMPTS = 2400
TRAIN_WEIGHTS = "{sequence:3.5,grid_collage:8,pic_in_pic:1}"
"""What the base model finds hardest is asked most."""
TEST_PROMPTS = "{sequence:225,grid_collage:225,pic_in_pic:225,single_image:250}"
"""A few more than 200 of each format and source, since a rare question finds too few companions."""
# pictures have 64 and 28 pixels a side: cells of 448 would show nothing more and take most of the time
SMALL = ["composers.grid_collage.cell_size=112", "composers.grid_collage.margin=10", "composers.pic_in_pic.min_side=96"]
HARD = ["companions=same_question", *SMALL]
SHORT = ["decode.max_new_tokens=8"]


@dataclass(slots=True, frozen=True, kw_only=True)
class Tuning:
    """One way to tune the base model: what it changes in `experiment=demo`, and whose pairs it takes."""

    name: str
    overrides: tuple[str, ...] = ()
    pairs: str = "pairs"


TUNED = Tuning(name="tuned")
CONTROLS = (
    Tuning(name="sft", overrides=("loss.alpha=0", "loss.attention.weight=0")),
    Tuning(name="no_attention", overrides=("loss.attention.weight=0",)),
    Tuning(name="no_preference", overrides=("loss.alpha=0",)),
    Tuning(name="random_pairs", pairs="random_pairs"),
)
"""What a gain over the base model is held against: the likelihood of the same chosen answers alone, the recipe without
its attention term, without its preference term, and on as many pairs drawn without looking at attention."""


def generate(source: str, backbone: str, folder: Path) -> list[str]:
    """Preference pairs from a source's training split."""
    return [
        "generate.py",
        *SOURCES[source],
        f"backbone={backbone}",
        f"num_prompts={TRAIN_PROMPTS}",
        f"weights={TRAIN_WEIGHTS}",
        *HARD,
        *SHORT,
        "batch_size=64",
        "num_threads=1",
        f"output={folder / 'pairs' / source}",
    ]


def draw_at_random(source: str, backbone: str, folder: Path) -> list[str]:
    """As many pairs of the same answers, drawn without looking at attention; the folder holds the answers already."""
    command = generate(source, backbone, folder)[:-1]
    return [*command, "stage=select", "selection=random", f"output={folder / 'random_pairs' / source}"]


def test_set(source: str, folder: Path) -> list[str]:
    """Questions from a source's test split; no model runs."""
    return [
        "generate.py",
        "stage=compose",
        *SOURCES[source],
        "split=test",
        "formats=[sequence,grid_collage,pic_in_pic,single_image]",
        f"num_prompts={TEST_PROMPTS}",
        *HARD,
        f"output={folder / 'test' / source}",
    ]


def train(tuning: Tuning, backbone: str, folder: Path, seed: int = 0) -> list[str]:
    """Tuning on the pairs of all sources."""
    paths = ",".join(str(folder / tuning.pairs / source / "preferences.jsonl") for source in SOURCES)
    return [
        "train.py",
        "experiment=demo",
        f"backbone={backbone}",
        f"data.path=[{paths}]",
        *tuning.overrides,
        f"seed={seed}",
        f"output={run_folder(tuning.name, folder, seed)}",
    ]


def infer(name: str, backbone: str, folder: Path, seed: int = 0) -> list[str]:
    """The base model (`name` base) or a tuned one on all test sets."""
    paths = ",".join(str(folder / "test" / source / "instructions.jsonl") for source in SOURCES)
    return [
        "infer.py",
        model(name, backbone, folder, seed),
        f"data.path=[{paths}]",
        *SHORT,
        "batch_size=64",
        "num_threads=1",
        f"overlays={12 if name in ('base', TUNED.name) else 0}",
        f"output={answers_folder(name, folder, seed)}",
    ]


def model(name: str, backbone: str, folder: Path, seed: int = 0) -> str:
    """The override that names the base model or a tuned one."""
    return f"backbone={backbone}" if name == "base" else f"run={run_folder(name, folder, seed)}"


def run_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """Where a tuning's run lies."""
    return folder / "runs" / f"{name}_seed{seed}"


def answers_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """Where a model's answers to the test sets lie; the base model has no seed."""
    return folder / "answers" / (name if name == "base" else f"{name}_seed{seed}")
