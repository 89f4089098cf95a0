"""`python -m lookright.ask` from a composed config to an answer, a table of shares, and heat maps."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lookright.answering.shares import Shares
from lookright.api import ModelParts, Reply
from lookright.ask.question import Asked, read_question
from lookright.backbones.loading import use_threads
from lookright.common.files import whole_file
from lookright.common.jsonl import write_atomically
from lookright.config.made_by import made_by
from lookright.config.runs import with_run
from lookright.packing.encode import row_length

ANSWER_FILE = "answer.json"
HEAT_FILE = re.compile(r"(answer\d+_)?heat_image\d+\.png")


def ask(config: DictConfig, asked: Asked | None = None) -> dict[str, Any]:
    """Answer one question; returns what is printed with `format=json`, and lies in `answer.json` of `output`.

    `asked` is the question where it was read before, with the config of its run.

    Raises ConfigError or RecordError, both before weights load, for what cannot be asked.
    """
    if asked is None:
        config = with_run(config)
        asked = read_question(config)
    prompt, pictures = asked.prompt, asked.pictures
    parts = ModelParts(config)
    parts.decoder.check_num_answers(config.num_answers)
    row_length(parts.backbone, prompt, pictures)
    parts.decoder.check(parts.backbone, [prompt])
    use_threads(config.num_threads)
    model = parts.load()
    replies = model.reply(prompt, pictures, config.num_answers)
    shares = [reply.shares() for reply in replies]
    told = _told(config, asked, replies, shares)
    if config.output is not None:
        told["heat"] = _write_heat(Path(config.output), replies, config.heat_side)
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        write_atomically(Path(config.output) / ANSWER_FILE, [text])
    if config.format == "json":
        print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(_lines(told)))
    return told


def _told(config: DictConfig, asked: Asked, replies: Sequence[Reply], shares: Sequence[Shares]) -> dict[str, Any]:
    """Everything that is known, as plain values."""
    record = made_by(config, "-m lookright.ask", "")
    return {
        "question": config.question,
        "prompt": asked.prompt.prompt,
        "images": [str(path) for path in asked.paths],
        "target": asked.prompt.target,
        "even_shares": shares[0].even,
        "answers": [
            {
                "text": reply.text,
                "confidence": reply.confidence,
                "attention_ratio": reply.attention_ratio,
                "even_ratio": reply.even_ratio,
                "scaled_ratio": reply.scored.scaled_ratio,
                "factor": round(reply.scored.answer.factor, 6),
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
    """Each answer's map over each picture, instead of those of an earlier question; returns names, a list an answer."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if HEAT_FILE.fullmatch(file.name):
            file.unlink()
    names = []
    for number, reply in enumerate(replies, start=1):
        opening = "heat" if len(replies) == 1 else f"answer{number}_heat"
        maps = reply.heat_maps(side)
        own = [f"{opening}_image{place}.png" for place in range(1, len(maps) + 1)]
        for name, one in zip(own, maps, strict=True):
            with whole_file(folder / name) as file:
                one.save(file)
        names.append(own)
    return names


def _lines(told: dict[str, Any]) -> Iterator[str]:
    """For people: each answer with its numbers and a table of the images."""
    for answer in told["answers"]:
        yield answer["text"] or "(no words)"
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
