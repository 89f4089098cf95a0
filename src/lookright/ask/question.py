"""The question that a command line asks, read and checked without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lookright.composing.asked import asked_prompt
from lookright.errors import ConfigError, RecordError
from lookright.records.held_pictures import HeldPictures
from lookright.types import Prompt

FORMATS = ("text", "json")


@dataclass(slots=True, frozen=True, kw_only=True)
class Asked:
    """A prompt, its pictures, and the files that these came from."""

    prompt: Prompt
    pictures: HeldPictures
    paths: list[Path]


def read_question(config: DictConfig) -> Asked:
    """Raise ConfigError, or RecordError, for what cannot be asked whatever the model."""
    _check_keys(config)
    paths = _paths(config)
    try:
        pictures = HeldPictures(paths)
        prompt = asked_prompt(pictures, config.question, config.target)
    except RecordError as error:
        # they are called images here
        raise RecordError(error.reason, str(error).replace("pictures[", "images[")) from error
    return Asked(prompt=prompt, pictures=pictures, paths=paths)


def _check_keys(config: DictConfig) -> None:
    problems = []
    if config.question is None or not config.question.strip():
        problems.append('question is not set; add it in quotes, as "In Image2, what color is the car?"')
    if config.format not in FORMATS:
        problems.append(f"format={config.format!r}; valid: {', '.join(FORMATS)}")
    if config.heat_side < 1:
        problems.append(f"heat_side={config.heat_side}; set 1 pixel or more")
    if config.output is not None and Path(config.output).is_file():
        problems.append(f"output={config.output} is a file; set output to a folder")
    if OmegaConf.is_missing(config, "images"):
        problems.append("images is not set; set images=[a.jpg,b.jpg]")
    if problems:
        raise ConfigError("\n".join(problems))


def _paths(config: DictConfig) -> list[Path]:
    given: Any = config.images
    names = list(given) if isinstance(given, ListConfig) else [given]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"images={given}; set one path, or a list of paths: images=[a.jpg,b.jpg]")
    paths = [Path(name) for name in names]
    missing = [f"images[{number}]={path} is no file" for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        raise ConfigError("\n".join(f"{one}; set images to files that are there" for one in missing))
    return paths
