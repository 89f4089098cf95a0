"""Adaptive decoding in the demo: its values are chosen on questions of the training split, then measured as a row."""

import json
from collections import Counter
from pathlib import Path

from lookright.answering.adaptive_grid import Setting
from lookright.commands.tune_adaptive import BEST
from lookright.common.jsonl import read_lines, write_atomically
from lookright.demo import commands
from lookright.demo.lanes import Chain
from lookright.errors import LookRightError
from lookright.evaluation.adaptive_choice import setting_text

FORMATS = ("sequence", "grid_collage", "pic_in_pic")
COMPOSED = {"easy_vqa": 250, "fashion_mnist": 500}
"""Questions of each format, of which those about a picture that a tuning prompt is about are left out: 2,400 prompts
take all 2,000 pictures of Fashion-MNIST, and about half of easy-VQA's 4,000."""
KEPT = 150
UNSEEN = "unseen.jsonl"
SEED = 1
MODELS = ("base", commands.TUNED.name)
"""Each with values of its own."""
SCOPES = {"all": "adaptive", "target": "told"}
"""What a row is called by the scope: one that is told the target knows more than the others."""


def validation_set(source: str, folder: Path) -> list[str]:
    """Questions from a source's training split, of another seed than the pairs; no model runs."""
    counts = ",".join(f"{name}:{COMPOSED[source]}" for name in FORMATS)
    return [
        "generate.py",
        "stage=compose",
        *commands.SOURCES[source],
        "split=train",
        f"seed={SEED}",
        f"formats=[{','.join(FORMATS)}]",
        f"num_prompts={{{counts}}}",
        *commands.HARD,
        f"output={folder / 'validation' / source}",
    ]


def keep_unseen(folder: Path) -> list[Path]:
    """Write the questions of each source that `unseen` leaves; returns the files of those sources that have some.

    Raises LookRightError where no source has any.
    """
    paths = []
    for source in commands.SOURCES:
        lines = unseen(source, folder)
        if lines:
            paths.append(folder / "validation" / source / UNSEEN)
            write_atomically(paths[-1], lines)
    if not paths:
        raise LookRightError("every picture of every source is in the tuning set; compose more validation questions")
    return paths


def unseen(source: str, folder: Path) -> list[str]:
    """Return the first `KEPT` questions of each format about a picture that no tuning prompt is about, as lines.

    Other pictures that a question shows may have been shown in tuning.
    """
    seen = {
        line["provenance"]["source_picture"] for line in read_lines(folder / "pairs" / source / "instructions.jsonl")
    }
    kept: Counter[str] = Counter()
    lines = []
    for line in read_lines(folder / "validation" / source / "instructions.jsonl"):
        if line["provenance"]["source_picture"] not in seen and kept[line["format"]] < KEPT:
            kept[line["format"]] += 1
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def tune(name: str, backbone: str, folder: Path, seed: int = 0) -> list[str]:
    """Choosing the values for the base model (`name` base) or a tuned one."""
    files = [folder / "validation" / source / UNSEEN for source in commands.SOURCES]
    paths = ",".join(str(path) for path in files if path.is_file())
    return [
        "tune_adaptive.py",
        commands.model(name, backbone, folder, seed),
        f"data.path=[{paths}]",
        "grid.max_new_tokens=8",
        "batch_size=64",
        "num_threads=1",
        f"output={tuning_folder(name, folder, seed)}",
    ]


def infer(name: str, backbone: str, folder: Path, scope: str, seed: int = 0) -> list[str]:
    """All test sets with the best values of that model and scope, be they better than greedy or not."""
    script, *overrides = commands.infer(name, backbone, folder, seed)[:-1]
    return [
        script,
        "--config-dir",
        str(tuning_folder(name, folder, seed)),
        *(one for one in overrides if not one.startswith("overlays=")),
        f"decode={BEST}_{scope}",
        "overlays=0",
        f"output={commands.answers_folder(row_name(name, scope), folder, seed)}",
    ]


def chains(backbone: str, folder: Path, seed: int = 0) -> list[Chain]:
    """Tuning and measuring, one chain a model."""
    return [
        [tune(name, backbone, folder, seed), *(infer(name, backbone, folder, scope, seed) for scope in SCOPES)]
        for name in MODELS
    ]


def finding(name: str, folder: Path, seed: int = 0) -> dict[str, dict[str, str]]:
    """Of each scope the overrides of the best setting, and what was advised."""
    result = json.loads((tuning_folder(name, folder, seed) / "tuning.json").read_text())
    return {
        scope: {
            "best": setting_text(Setting(**result[scope]["best"]["setting"])),
            "recommended": result[scope]["recommended"],
        }
        for scope in SCOPES
    }


def tuning_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """Where the search for a model's values lies."""
    return folder / "adaptive" / f"{name}_seed{seed}"


def row_name(name: str, scope: str) -> str:
    """What a model with adaptive decoding is called in tables."""
    return f"{name}_{SCOPES[scope]}"


def row_names() -> list[str]:
    """Of all models and scopes."""
    return [row_name(name, scope) for name in MODELS for scope in SCOPES]
