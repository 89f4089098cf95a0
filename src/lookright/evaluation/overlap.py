"""Questions that a model or its decoding has met before: their score says what was remembered or chosen for them."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.common.hashing import hash_text
from lookright.common.jsonl import read_lines, write_atomically
from lookright.evaluation.questions import Questions
from lookright.types import Prompt

log = logging.getLogger(__name__)
TUNED_ON = "tuned_on.json"
"""Which questions values were chosen on, in the folder of tune_adaptive.py."""


def question_key(prompt: Prompt) -> str:
    """Return what two files share that ask the same: a hash of text, ground truth and picture, and not of the id."""
    source = prompt.provenance
    picture = f"{source['source']}/{source['source_picture']}" if source.get("source_picture") else prompt.images
    return hash_text(json.dumps([prompt.prompt, prompt.ground_truth, picture]))


def write_tuned_on(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write which questions values were chosen on: hash by id."""
    write_atomically(path, [json.dumps({one.id: question_key(one) for one in prompts}, indent=1) + "\n"])


def tuned_on_warning(decode: Mapping[str, Any] | None, prompts: list[Prompt]) -> list[str]:
    """Return a sentence where values of the decoding were chosen on questions that are asked, or that is unknown."""
    path = (decode or {}).get("tuned_on")
    if path is None:
        return []
    if not Path(path).is_file():
        return [f"decode.tuned_on={path} is not there: whether the decoding was chosen on these questions is not known"]
    known = set(json.loads(Path(path).read_text()).values())
    found = [one.id for one in prompts if question_key(one) in known]
    if not found:
        return []
    return [
        f"{len(found)} of {len(prompts)} questions ({found[0]} first) are among those that the values of decode were "
        f"chosen on ({path}): their score is better than it would be on others; set data.path to other questions"
    ]


def trained_on_warning(config: DictConfig | None, questions: Questions, run: str | Path | None) -> list[str]:
    """Return a sentence where questions have the id or the pictures of pairs that a run was given to train on.

    `config` is the run's. A picture is the same where source and name of the target's are, or its file. Rows of
    tables are not looked through.
    """
    if config is None:
        return []
    keys = {key for path in _paths(config.data.get("path")) for key in _trained(path, config.data.get("image_root"))}
    asked = list(_asked(questions))
    found = [name for name, own in asked if own & keys]
    if not found:
        return []
    return [
        f"{len(found)} of {len(asked)} questions ({found[0]} first) show pictures that {run} was given to train on: "
        "their score says what it remembers; set data.path to questions of another split"
    ]


def run_config_of(run: str | Path | None, adapter: str | Path | None) -> DictConfig | None:
    """Return the config of the training run that a model comes from, None where there is none."""
    folder = run if run is not None else None if adapter is None else Path(adapter).parent
    path = None if folder is None else Path(folder) / "config.yaml"
    config = OmegaConf.load(path) if path is not None and path.is_file() else None
    return config if isinstance(config, DictConfig) and isinstance(config.get("data"), DictConfig) else None


def _asked(questions: Questions) -> Iterator[tuple[str, set[str]]]:
    for path, (_, prompts) in zip(questions.paths, questions.groups(), strict=True):
        root = _root(path, questions.image_root)
        for prompt in prompts:
            yield prompt.id, _keys(prompt.id, prompt.provenance, prompt.images, root)


def _trained(path: str, image_root: str | None) -> Iterator[str]:
    """Keys of all pairs of a file of json; of another kind, or one that is gone, none."""
    file = Path(path)
    if not file.is_file() or file.suffix not in (".json", ".jsonl"):
        log.info("%s: rows of such a file are not held against the questions", path)
        return
    rows = read_lines(file) if file.suffix == ".jsonl" else json.loads(file.read_text(encoding="utf-8"))
    for row in rows:
        if isinstance(row, dict):
            images = row.get("images") or row.get("image") or []
            images = [images] if isinstance(images, str) else images
            names = [name for name in images if isinstance(name, str)]
            provenance = row.get("provenance") or {}
            yield from _keys(row.get("id"), provenance, names, _root(path, image_root))


def _keys(record: Any, provenance: Mapping[str, Any], images: Iterable[str], root: str) -> set[str]:
    keys = {f"file {os.path.normpath(os.path.join(root, name))}" for name in images}
    if provenance.get("source_picture") is not None:
        keys.add(f"picture {provenance.get('source')}/{provenance['source_picture']}")
    # an id of ours has seed and hash in it; others count from 0 in every file
    return keys | {f"id {record}"} if provenance.get("seed") is not None else keys


def _root(path: str, image_root: str | None) -> str:
    return os.path.abspath(image_root or (path if Path(path).is_dir() else Path(path).parent))


def _paths(path: Any) -> list[str]:
    return [path] if isinstance(path, str) else list(path or [])
