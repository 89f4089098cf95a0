"""`python -m lookright.ask` from a composed config to an answer, a table of shares, and heat maps."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from lookright.answering.shares import Shares
from lookright.api import ModelParts, Reply
from lookright.common.jsonl import write_atomically
from lookright.composing.asked import asked_prompt
from lookright.config.made_by import made_by
from lookright.config.runs import with_run
from lookright.errors import ConfigError, RecordError
from lookright.packing.encode import row_length
from lookright.records.held_pictures import HeldPictures
from lookright.types import Prompt

FORMATS = ("text", "json")
ANSWER_FILE = "answer.json"


def ask(config: DictConfig) -> dict[str, Any]:
    """Answer one question; returns what is printed with `format=json`, and lies in `answer.json` of `output`.

    Raises ConfigError or RecordError, both before weights load, for what cannot be asked.
    """
    config = with_run(config)
    parts = ModelParts(config)
    paths = _paths(config)
    _check(config, parts)
    prompt, pictures = _question(config, parts, paths)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    model = parts.load()
    replies = model.reply(prompt, pictures, config.num_answers)
    shares = [reply.shares() for reply in replies]
    told = _told(config, prompt, paths, replies, shares)
    if config.output is not None:
        told["heat"] = _write_heat(Path(config.output), replies, config.heat_side)
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        write_atomically(Path(config.output) / ANSWER_FILE, [text])
    if config.format == "json":
        print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(_lines(told)))
    return told


def _check(config: DictConfig, parts: ModelParts) -> None:
    """Raise ConfigError for values of the command's own keys."""
    parts.decoder.check_num_answers(config.num_answers)
    if config.format not in FORMATS:
        raise ConfigError(f"format={config.format!r}; valid: {', '.join(FORMATS)}")
    if config.heat_side < 1:
        raise ConfigError(f"heat_side={config.heat_side}; set 1 pixel or more")
    if config.output is not None and Path(config.output).is_file():
        raise ConfigError(f"output={config.output} is a file; set output to a folder")


def _paths(config: DictConfig) -> list[Path]:
    """The pictures' files. Raises ConfigError for what is no list of paths, or not there."""
    given: Any = config.images
    names = list(given) if isinstance(given, ListConfig) else [given]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"images={given}; set one path, or a list of paths: images=[a.jpg,b.jpg]")
    paths = [Path(name) for name in names]
    missing = [f"images[{number}]={path} is no file" for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        raise ConfigError("\n".join(f"{one}; set images to files that are there" for one in missing))
    return paths


def _question(config: DictConfig, parts: ModelParts, paths: Sequence[Path]) -> tuple[Prompt, HeldPictures]:
    """The prompt and its pictures. Raises ConfigError, or RecordError, for a question that cannot be asked."""
    if config.question is None or not config.question.strip():
        raise ConfigError('question is not set; add it in quotes, as "In Image2, what color is the car?"')
    try:
        pictures = HeldPictures(paths)
        prompt = asked_prompt(pictures, config.question, config.target)
    except RecordError as error:
        # they are called images here
        raise RecordError(error.reason, str(error).replace("pictures[", "images[")) from error
    row_length(parts.backbone, prompt, pictures)
    parts.decoder.check(parts.backbone, [prompt])
    return prompt, pictures


def _told(
    config: DictConfig, prompt: Prompt, paths: Sequence[Path], replies: Sequence[Reply], shares: Sequence[Shares]
) -> dict[str, Any]:
    """Everything that is known, as plain values."""
    record = made_by(config, "-m lookright.ask", "")
    return {
        "question": config.question,
        "prompt": prompt.prompt,
        "images": [str(path) for path in paths],
        "target": prompt.target,
        "even_shares": shares[0].even,
        "answers": [
            {
                "text": reply.text,
                "confidence": reply.confidence,
                "attention_ratio": reply.attention_ratio,
                "even_ratio": reply.even_ratio,
                "scaled_ratio": reply.scored.scaled_ratio,
                "factor": reply.scored.answer.factor,
                "perplexity": reply.scored.perplexity,
                "shares": own.shares,
            }
            for reply, own in zip(replies, shares, strict=True)
        ],
        "model": record.model,
        "adapter": record.adapter,
        "decoding": record.decoding,
        "code": record.code,
    }


def _write_heat(folder: Path, replies: Sequence[Reply], side: int) -> list[list[str]]:
    """Each answer's map over each picture; returns the files' names, one list an answer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, reply in enumerate(replies, start=1):
        opening = "heat" if len(replies) == 1 else f"answer{number}_heat"
        maps = reply.heat_maps(side)
        own = [f"{opening}_image{place}.png" for place in range(1, len(maps) + 1)]
        for name, one in zip(own, maps, strict=True):
            one.save(folder / name)
        names.append(own)
    return names


def _lines(told: dict[str, Any]) -> Iterator[str]:
    """For people: each answer with its numbers and a table of the images."""
    for answer in told["answers"]:
        yield answer["text"]
        yield ""
        ratio = answer["attention_ratio"]
        looked = "" if ratio is None else f"; attention ratio {ratio:.2f}, of an even look {answer['even_ratio']:.2f}"
        scaled = "" if answer["factor"] == 1 else f"; image attention scaled by {answer['factor']:g}"
        yield f"confidence {answer['confidence']:.2f}{looked}{scaled}"
        yield from _table(told, answer["shares"])
        yield ""
    if told["target"] is None:
        yield "no image is named in the question; target=0 (the first), 1 ... tells which is meant"
    for names in told.get("heat", ()):
        yield f"heat maps: {', '.join(names)}"


def _table(told: dict[str, Any], shares: Sequence[float]) -> Iterator[str]:
    """Share of each image beside that of an even look; the one asked about is marked."""
    # several images in one picture have no file of their own
    files = told["images"] if len(told["images"]) == len(shares) else told["images"][:1] * len(shares)
    width = max(len(name) for name in files)
    yield f"{'':2}image  {'file':{width}}  attention  even look"
    for number, (file, share, even) in enumerate(zip(files, shares, told["even_shares"], strict=True)):
        mark = ">" if number == told["target"] else ""
        yield f"{mark:2}{number + 1:5}  {file:{width}}  {share:9.2f}  {even:9.2f}"
