"""Our test sets as VLMEvalKit and lmms-eval read them; with their environments at hand, what they get from a server."""

import ast
import base64
import csv
import importlib.util
import io
import json
import os
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

from benchmarks.field.__main__ import compared
from benchmarks.field.clients import Told, ask_evalkit, ask_lmms, ask_openai, openai_content
from benchmarks.field.convert import DATASET, SUFFIX, TASK, Prepared, bare_question, prepare
from benchmarks.serve import running_server
from lookright.records.records import read_prompts, write_jsonl
from lookright.serve.messages import read_messages
from lookright.serve.settings import Limits
from lookright.types import Prompt, Region

COLORS = ((200, 30, 30), (30, 30, 200), (30, 160, 30))


def record(number: int, images: list[str], prompt: str, answer: str = "red") -> Prompt:
    regions = [Region(picture=place, box=(0, 0, 40, 24), source=name) for place, name in enumerate(images)]
    return Prompt(
        id=f"q{number}", images=images, prompt=prompt, ground_truth=answer, format="", target=0, regions=regions
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One question about one picture and one about three."""
    for number, color in enumerate(COLORS):
        picture = Image.new("RGB", (40, 24), color)
        picture.putpixel((3, 5), (255, 255, 255))
        picture.save(tmp_path / f"{number}.png")
    several = 'Image1:<image>\nImage2:<image>\nImage3:<image>\nIn Image2, what color\tis "it"?'
    records = [
        record(0, ["0.png"], "<image>\nWhat color is it?"),
        record(1, ["2.png", "1.png", "0.png"], several, "blue"),
    ]
    write_jsonl(tmp_path / "instructions.jsonl", records)
    return tmp_path / "instructions.jsonl"


@pytest.fixture
def prepared(data: Path, tmp_path: Path) -> Prepared:
    return prepare(data, tmp_path / "field")


def opened(data: bytes) -> list[bytes]:
    return [Image.open(io.BytesIO(data)).convert("RGB").tobytes()]


def pixels(folder: Path, prompt: Prompt) -> list[bytes]:
    return [Image.open(folder / image).convert("RGB").tobytes() for image in prompt.images]


def test_infer_reads_both_sets_with_the_evaluators_suffix(data: Path, prepared: Prepared) -> None:
    original = list(read_prompts(data))
    for folder in (prepared.png, prepared.jpeg):
        prompts = list(read_prompts(folder / "instructions.jsonl"))
        assert [one.prompt for one in prompts] == [one.prompt + SUFFIX for one in original]
        assert [(one.id, one.ground_truth) for one in prompts] == [("q0", "red"), ("q1", "blue")]
    kept, sent = (list(read_prompts(folder / "instructions.jsonl"))[1] for folder in (prepared.png, prepared.jpeg))
    assert pixels(prepared.png, kept) == pixels(data.parent, original[1])
    assert pixels(prepared.jpeg, sent) != pixels(data.parent, original[1])
    assert Image.open(prepared.jpeg / sent.images[0]).format == "JPEG"


def test_a_tsv_row_holds_the_pictures_in_order(data: Path, prepared: Prepared) -> None:
    with open(prepared.evalkit / f"{DATASET}.tsv", newline="") as file:
        one, several = csv.DictReader(file, delimiter="\t")
    assert (one["index"], one["question"], one["answer"], one["id"]) == ("0", "What color is it?", "red", "q0")
    assert several["question"] == 'In Image2, what color\tis "it"?'
    assert opened(base64.b64decode(one["image"])) == pixels(data.parent, record(0, ["0.png"], ""))
    # how VLMEvalKit takes a list apart
    files = [base64.b64decode(text) for text in ast.literal_eval(several["image"])]
    assert [opened(file)[0] for file in files] == pixels(data.parent, record(0, ["2.png", "1.png", "0.png"], ""))


def functions(prepared: Prepared) -> ModuleType:
    spec = importlib.util.spec_from_file_location("task_utils", prepared.lmms / "utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_task_of_lmms_eval_asks_what_infer_asks(data: Path, prepared: Prepared) -> None:
    text = (prepared.lmms / f"{TASK}.yaml").read_text()
    task = yaml.safe_load(text.replace("!function ", ""))
    rows = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    utils = functions(prepared)
    for row, prompt in zip(rows, read_prompts(prepared.png / "instructions.jsonl"), strict=True):
        assert prompt.prompt.endswith(utils.doc_to_text(row, task["lmms_eval_specific_kwargs"]["default"]))
        assert [one.tobytes() for one in utils.doc_to_visual(row)] == pixels(prepared.png, prompt)
        assert row[task["doc_to_target"]] == prompt.ground_truth


def test_a_message_arrives_as_the_prompt_of_infer(prepared: Prepared) -> None:
    for prompt in read_prompts(prepared.png / "instructions.jsonl"):
        content = openai_content(prompt, prepared.png)
        asked = read_messages([{"role": "user", "content": content}], "auto", None, Limits())
        assert asked.prompt.prompt == prompt.prompt
        arrived = [asked.pictures.open(name).tobytes() for name in asked.pictures.names]
        assert arrived == pixels(prepared.png, prompt)


def test_a_client_sends_what_is_no_label() -> None:
    labelled = "Image1:<image>\nImage2:<image>\nWhich is red?"
    assert bare_question(record(0, ["a.png", "b.png"], labelled)) == "Which is red?"
    assert bare_question(record(0, ["a.png"], "<image>\nIn Image2, what is it?")) == "In Image2, what is it?"
    # pictures in places of their own stay marked, and the server leaves them there
    assert bare_question(record(0, ["a.png"], "What is <image>?")) == "What is <image>?"
    with pytest.raises(ValueError, match="record q7 has no picture"):
        bare_question(record(7, [], "What?"))


def test_what_differs_is_counted() -> None:
    ours = {
        "png": Told(answers={"a": "red", "b": "blue", "c": "no"}, score=50.0),
        "jpeg": Told(answers={"a": "red", "b": "green", "c": "no"}, score=25.0),
    }
    line = compared("tiny", "a client", "jpeg", Told(answers={"a": "red", "b": "green"}, score=30.0), ours)
    assert (line["questions"], line["equal"], line["equal_to_original_pictures"]) == (2, 2, 1)
    assert (line["score"], line["our_score"]) == (30.0, 25.0)


def environment(key: str) -> Path:
    if key not in os.environ:
        pytest.skip(f"{key} is the Python of an environment as docs/benchmarks_field.md makes it")
    return Path(os.environ[key])


@pytest.mark.slow
def test_vlmevalkit_gets_what_openais_client_gets(prepared: Prepared, tmp_path: Path) -> None:
    python = environment("LOOKRIGHT_EVALKIT")
    with running_server("backbone=tiny_llava") as (_, address):
        told = ask_evalkit(python, "png", address, prepared, tmp_path / "run")
        expected = ask_openai(address, prepared).answers
    for one in told.values():
        assert one.answers == expected
        assert one.score in (0.0, 50.0, 100.0)


@pytest.mark.slow
def test_lmms_eval_gets_what_openais_client_gets(prepared: Prepared, tmp_path: Path) -> None:
    python = environment("LOOKRIGHT_LMMS")
    with running_server("backbone=tiny_llava") as (_, address):
        told = ask_lmms(python, address, prepared, tmp_path / "run")
        expected = ask_openai(address, prepared).answers
    assert told.answers == expected
    assert told.score in (0.0, 50.0, 100.0)
