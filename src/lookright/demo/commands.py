"""The command lines that the demo runs: the same three commands that a user types."""

from pathlib import Path

SOURCES = {"easy_vqa": ["source=easy_vqa", "source.yes_no=false"], "fashion_mnist": ["source=fashion_mnist"]}
"""Questions answered yes or no are left out: a wrong answer there says nothing about where the model looked."""
TRAIN_PROMPTS = 1400
TEST_PROMPTS = "{sequence:225,grid_collage:225,pic_in_pic:225,single_image:250}"
"""A few more than 200 of each format and source, since a rare question finds too few companions."""
HARD = ["companions=same_question", "composers.pic_in_pic.min_side=96"]
SHORT = ["decode.max_new_tokens=8"]


def generate(source: str, backbone: str, folder: Path) -> list[str]:
    """Preference pairs from a source's training split."""
    return [
        "generate.py",
        *SOURCES[source],
        f"backbone={backbone}",
        f"num_prompts={TRAIN_PROMPTS}",
        *HARD,
        *SHORT,
        "batch_size=64",
        "num_threads=1",
        f"output={folder / 'pairs' / source}",
    ]


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


def train(backbone: str, folder: Path) -> list[str]:
    """Tuning on the pairs of all sources."""
    paths = ",".join(str(folder / "pairs" / source / "preferences.jsonl") for source in SOURCES)
    return ["train.py", "experiment=demo", f"backbone={backbone}", f"data.path=[{paths}]", f"output={folder / 'train'}"]


def infer(name: str, backbone: str, folder: Path) -> list[str]:
    """The base model (`name` base) or the tuned one on all test sets."""
    paths = ",".join(str(folder / "test" / source / "instructions.jsonl") for source in SOURCES)
    model = f"run={folder / 'train'}" if name == "tuned" else f"backbone={backbone}"
    return [
        "infer.py",
        model,
        f"data.path=[{paths}]",
        *SHORT,
        "batch_size=64",
        "num_threads=1",
        f"output={folder / name}",
    ]
