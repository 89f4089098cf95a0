"""Questions for the page: where the base model looked, and where the tuned one looks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lookright.data.pictures import PictureFolder
from lookright.data.records import read_prompts
from lookright.generation.answer import Answerer
from lookright.inference.heat import attention_heat
from lookright.losses.band import half_depth
from lookright.reports.comparison import ComparedExample
from lookright.runtime import load_policy
from lookright.streams import read_lines

FORMATS = ("sequence", "grid_collage", "pic_in_pic")


def compared_examples(folder: Path, test_files: Sequence[Path], per_format: int = 3) -> list[ComparedExample]:
    """Of each format the first questions, by id, that the base model got wrong and the tuned one right."""
    base = {line["id"]: line for line in read_lines(folder / "base" / "predictions.jsonl")}
    tuned = {line["id"]: line for line in read_lines(folder / "tuned" / "predictions.jsonl")}
    answerers = {name: _answerer(folder / name / "config.yaml") for name in ("base", "tuned")}
    found: list[ComparedExample] = []
    for name in FORMATS:
        fixed = [
            (path, prompt)
            for path in test_files
            for prompt in read_prompts(path)
            if prompt.format == name and tuned[prompt.id]["correct"] and not base[prompt.id]["correct"]
        ]
        for path, prompt in sorted(fixed, key=lambda pair: pair[1].id[-8:])[:per_format]:
            pictures = PictureFolder(path.parent)
            heat = {
                key: attention_heat(answerer, prompt, lines[prompt.id]["prediction"], pictures)
                for (key, answerer), lines in zip(answerers.items(), (base, tuned), strict=True)
            }
            found.append(
                ComparedExample(
                    prompt=replace(prompt, images=[str(path.parent.absolute() / image) for image in prompt.images]),
                    base=base[prompt.id]["prediction"],
                    tuned=tuned[prompt.id]["prediction"],
                    base_correct=False,
                    tuned_correct=True,
                    base_ratio=base[prompt.id]["attention_ratio"],
                    tuned_ratio=tuned[prompt.id]["attention_ratio"],
                    even_ratio=tuned[prompt.id]["even_ratio"],
                    base_heat=heat["base"],
                    tuned_heat=heat["tuned"],
                )
            )
    return found


def _answerer(path: Path) -> Answerer:
    """The model of an infer.py run."""
    config = OmegaConf.load(path)
    backbone = instantiate(config.backbone)
    policy = load_policy(backbone, config.adapter, torch.device("cpu"), torch.float32)
    return Answerer(
        backbone=backbone,
        policy=policy,
        decoder=instantiate(config.decode),
        ratio_layer=half_depth(backbone.num_layers),
        batch_size=1,
    )
