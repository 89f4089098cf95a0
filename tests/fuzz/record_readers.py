"""Readers of records and of lines: what fuzzing gives them, and what they must give back."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from lookright.common.jsonl import AppendOnly, LinesById, read_lines
from lookright.composing.sources.llava_json import LlavaJson
from lookright.composing.workspace import Workspace
from lookright.evaluation.predictions import read_predictions
from lookright.records.readers import load_preferences, load_prompts
from lookright.records.records import read_prompts
from lookright.reports.training import read_columns
from lookright.selection.select import answered_prompts, candidates
from lookright.training.loggers import RunCSVLogger
from tests.fuzz import plain
from tests.fuzz.reader import Reader

REGIONS = [
    {"picture": 0, "box": [0, 0, 20, 16], "source": "s0"},
    {"picture": 1, "box": [0, 0.5, 20, 16.0], "source": "s1"},
]
OWN_PAIR = {
    "id": "p1", "images": ["a.png", "b.png"], "prompt": "Image1: <image>\nImage2: <image>\nIn Image2, what is shown?",
    "chosen": "a cät", "rejected": "a dog", "format": "sequence", "target": 1, "regions": REGIONS,
    "scores": {"attention_ratio": 0.25}, "provenance": {"seed": 1, "number": 0},
}  # fmt: skip
SEVERAL = {"id": "p2", "images": ["a.png"], "prompt": "<image>\nWhat?", "chosen": "x", "rejected": ["y", "z"]}
OWN_PROMPT = {
    "id": "q1", "images": ["a.png", "b.png"], "prompt": "Image1: <image>\nImage2: <image>\nIn Image2, what is shown?",
    "ground_truth": "a cät", "format": "sequence", "target": 1, "regions": REGIONS,
    "provenance": {"seed": 1, "number": 0, "source": "easy_vqa", "source_picture": "1"},
}  # fmt: skip
PUBLISHED = {
    "id": 7,
    "image": ["a.png"],
    "prompt": "<image>\nIn Image1, what?",
    "chosen": "x",
    "rejected": "y",
    "gt": 1,
}
PUBLISHED_PROMPT = {"id": 7, "image": "a.png", "prompt": "What is this?", "answer": "x", "image_url": "u"}
LLAVA = {
    "id": "l1", "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
                      {"from": "human", "value": "What colour is the cat?"}, {"from": "gpt", "value": "Black."}],
}  # fmt: skip
PARTS = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
TRAINERS = [
    {"images": ["a.png"], "prompt": [{"role": "user", "content": PARTS}],
     "chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}]},
    {"image": "a.png", "prompt": "What?", "chosen": "x", "rejected": ["y", "z"]},
    {"images": ["a.png"], "chosen": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "x"}],
     "rejected": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "y"}]},
    {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "x"}],
     "images": ["a.png"], "rejected_response": "y"},
    {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "x"}],
     "images": [{"path": "a.png"}],
     "rejected_messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "y"}]},
    {"conversations": [{"from": "human", "value": "<image>What?"}], "chosen": {"from": "gpt", "value": "x"},
     "rejected": {"from": "gpt", "value": "y"}, "images": ["a.png"], "system": ""},
    {"instruction": "What?", "input": "Now.", "chosen": "x", "rejected": "y", "images": ["a.png"], "history": []},
]  # fmt: skip
ANSWERS = [
    {"id": "q1", "prediction": "a dog", "num_tokens": 2, "attention_ratio": 0.3, "even_ratio": 0.5, "perplexity": 1.5,
     "confidence": 0.5},
    {"id": "q2", "even_ratio": 0.5, "confidence": 0.5, "answers": [
        {"prediction": "a dog", "num_tokens": 2, "attention_ratio": None, "perplexity": 1.5},
        {"prediction": "a bird", "num_tokens": 2, "attention_ratio": 0.4, "perplexity": 2}]},
]  # fmt: skip
PREDICTION = {
    "id": "q1", "format": "sequence", "num_images": 2, "source": "easy_vqa", "source_picture": "1",
    "ground_truth": "cat", "prediction": "dog", "correct": False, "attention_ratio": 0.3, "even_ratio": 0.5,
    "scaled_ratio": None, "confidence": 0.9, "factor": 1.0, "error_kind": "other",
}  # fmt: skip
METRICS = "epoch,step,train/loss,val/loss\n0,0,0.69,\n0,1,0.5,\n0,1,,0.6\n"


def prepare(folder: Path) -> None:
    """Pictures that the seeds name."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 16), "red").save(folder / name)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _loaded(load: Callable[..., Any]) -> Callable[[Path], Any]:
    return lambda path: load(path).records


def _same_rows(parse: Callable[[bytes], Any], own: bool = False) -> Callable[[bytes, Any], None]:
    def check(data: bytes, records: list[Any]) -> None:
        rows = parse(data)
        assert len(rows) == len(records)
        for record, row in zip(records, rows, strict=True):
            plain.check_record(record, row)
            if own and plain_keys(row):
                plain.check_own(record, row)

    return check


def plain_keys(row: dict[str, Any]) -> bool:
    """Whether a row is of the package itself, which nothing is done to."""
    texts = [row.get(key) for key in ("prompt", "chosen", "ground_truth") if key in row]
    known = OWN_PAIR.keys() if "chosen" in row else OWN_PROMPT.keys() | {"answer"}
    return {"id", "images", "prompt"} <= row.keys() <= known and all(isinstance(text, str) for text in texts)


def _llava(path: Path) -> Any:
    source = LlavaJson(path, path.parent, turns="all")
    return [(row.picture, row.question, row.answer) for row in source.rows("train")]


def _same_llava(data: bytes, found: Any) -> None:
    rows = plain.json_value(data)
    texts = list(plain.texts_of(rows))
    told = {*texts, *(text.strip() for text in texts)}
    for picture, question, answer in found:
        assert picture in told and answer in told
        assert any(question.split() == text.replace("<image>", " ").split() for text in told), question


def _appended(path: Path) -> Any:
    found = list(read_lines(path))
    with LinesById(path) as by_id:
        for line in found:
            assert by_id.get(line["id"]) is not None
    torn = not path.read_bytes().endswith(b"\n")
    with AppendOnly(path) as written:
        whole = found[:-1] if torn else found
        assert written.done == {line["id"] for line in whole}
    return found


def _same_lines(data: bytes, found: Any) -> None:
    assert plain.json_lines(data) == found


def _same_instructions(data: bytes, found: Any) -> None:
    for record, row in zip(found, plain.json_lines(data), strict=True):
        # of several ground truths one is taken
        if plain_keys(row):
            plain.check_own(record, row)


def _answered(path: Path) -> Any:
    folder = path.parent
    (folder / "instructions.jsonl").write_bytes(lines(OWN_PROMPT, OWN_PROMPT | {"id": "q2"}))
    (folder / "skipped.jsonl").write_bytes(b"")
    rows = answered_prompts(Workspace(folder=folder))
    return [one for prompt, line in rows for one in candidates(prompt, line)]


def _same_answers(data: bytes, found: Any) -> None:
    told = {text for line in plain.json_lines(data) for text in plain.texts_of(line)}
    for one in found:
        assert one.rejected in told and one.chosen == OWN_PROMPT["ground_truth"]
        for value in (one.attention_ratio, one.even_ratio, one.perplexity):
            assert value is None or plain.is_number(value)


def _same_predictions(data: bytes, found: Any) -> None:
    told = plain.json_lines(data)
    assert len(told) == len(found)
    for raw in told:
        line = found[raw["id"]]
        assert type(line["correct"]) is bool and type(line["num_images"]) is int and type(line["prediction"]) is str
        assert all(raw[key] == value for key, value in line.items() if key in raw)


def _metrics(path: Path) -> Any:
    columns = read_columns(path)
    RunCSVLogger(path.parent).go_on_from(1)
    assert all(step < 1 for points in read_columns(path).values() for step, _ in points)
    return columns


def _same_metrics(data: bytes, columns: Any) -> None:
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8")
    rows = list(csv.reader(io.StringIO(whole, newline="")))
    for name, points in columns.items():
        place = rows[0].index(name)
        cells = [row[place] for row in rows[1:] if len(row) > place]
        values = [float(cell) for cell in cells if cell]
        assert [value for _, value in points] == [value for value in values if math.isfinite(value)]


def _pair_text(rows: list[Any]) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


PAIRS = _loaded(load_preferences)
READERS = [
    Reader("pairs", "it.jsonl", [lines(OWN_PAIR, SEVERAL)], PAIRS, _same_rows(plain.json_lines, True)),
    Reader("published", "it.jsonl", [lines(PUBLISHED)], PAIRS, _same_rows(plain.json_lines)),
    Reader(
        "trainers", "it.jsonl", [lines(row) for row in TRAINERS], PAIRS, _same_rows(plain.json_lines)
    ),
    Reader(
        "lists", "it.json", [_pair_text([PUBLISHED, *TRAINERS])], PAIRS, _same_rows(plain.json_value)
    ),
    Reader(
        "questions", "it.jsonl", [lines(OWN_PROMPT), lines(PUBLISHED_PROMPT), lines(LLAVA)], _loaded(load_prompts),
        _same_rows(plain.json_lines, True),
    ),
    Reader("llava", "it.json", [_pair_text([LLAVA, LLAVA | {"image": "b.png"}])], _llava, _same_llava),
    Reader("lines", "it.jsonl", [lines(OWN_PROMPT, SEVERAL, ANSWERS[0])], _appended, _same_lines),
    Reader(
        "instructions", "it.jsonl", [lines(OWN_PROMPT)], lambda path: list(read_prompts(path)), _same_instructions
    ),
    Reader("answers", "answers.jsonl", [lines(*ANSWERS)], _answered, _same_answers),
    Reader(
        "predictions", "predictions.jsonl", [lines(PREDICTION, PREDICTION | {"id": "q2", "format": "single_image"})],
        lambda path: read_predictions(path.parent), _same_predictions,
    ),
    Reader("metrics", "metrics.csv", [METRICS.encode()], _metrics, _same_metrics),
]  # fmt: skip
