"""docs/evaluation.md and docs/export.md: their commands run as they stand, on small models, and name keys there are."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.config.check import check_config
from lookright.records.records import write_jsonl
from tests.commands.test_infer import predictions, question
from tests.config.test_messages import unknown
from tests.evaluation.judge_server import JudgeServer, said

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("evaluation", "export")}
BLOCKS = {name: re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for name, page in PAGES.items()}
COMMAND = re.compile(r"^python (?:-m lookright\.)?(\w+)(?:\.py)? (.*)$", re.MULTILINE)
HYDRA = [
    found
    for blocks in BLOCKS.values()
    for block in blocks
    for found in COMMAND.findall(block)
    if found[0] not in ("compare", "ask")
]
Compose = Callable[..., DictConfig]
RunBlock = Callable[..., str]


def test_the_pages_have_the_commands_that_are_run_below() -> None:
    assert [len(blocks) for blocks in BLOCKS.values()] == [4, 3]
    assert [command for blocks in BLOCKS.values() for block in blocks for command, _ in COMMAND.findall(block)] == [
        "infer", "infer", "compare", "train", "ask", "export", "export",
    ]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments"), HYDRA)
def test_a_command_composes(command: str, arguments: str, composed: Compose) -> None:
    check_config(composed(command, *shlex.split(arguments)))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_keys_that_there_are(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", prose)
    assert len(inline) > 30 and not unknown("\n".join(inline))


def test_the_callback_that_the_page_proposes_composes(composed: Compose) -> None:
    (given,) = re.findall(r"`(callbacks=best_checkpoint [^`]*)`", PAGES["evaluation"])
    config = composed("train", *shlex.split(COMMAND.findall(BLOCKS["evaluation"][3])[0][1]), *shlex.split(given))
    check_config(config)
    assert config.callbacks.best_checkpoint.mode == "max"


@pytest.fixture(scope="module")
def place(
    composed: Compose, small_run: list[str], pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the pages take for granted: a run, its answers and those of its base, questions, pairs, pictures."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "images").mkdir()
    for name in ("train.py", "infer.py"):
        (folder / name).symlink_to(ROOT / name)
    asked = [question(folder, number) for number in range(12)]
    write_jsonl(folder / "questions.jsonl", asked)
    write_jsonl(folder / "mmmu.jsonl", [replace(one, prompt=f"{one.prompt}\nA. red\nB. blue") for one in asked[:4]])
    annotated = {"ground_truths": ["red"] * 4}
    write_jsonl(folder / "vqa.jsonl", [replace(one, provenance=one.provenance | annotated) for one in asked[4:8]])
    # a twentieth is held out
    pairs(folder, 40).rename(folder / "pairs.jsonl")
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (20, 16), (200 * number, 0, 200 * (1 - number))).save(folder / name)
    train(composed("train", *small_run, "trainer.max_steps=3", "optimizer.lr=0.05", f"output={folder / 'outputs/run'}"))
    run = f"run={folder / 'outputs/run'}"
    for name, model in (("base", [small_run[0]]), ("tuned", [run])):
        given = [f"data.path={folder / 'questions.jsonl'}", "decode.max_new_tokens=3", "overlays=0"]
        infer(composed("infer", *model, *given, f"output={folder / 'outputs' / name}"))
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.fixture()
def run_block(place: Path) -> RunBlock:
    """Run one block of a page in a shell, with names of its own; returns its console: run_block("export", 1)."""

    def run(page: str, number: int, replaced: dict[str, str] | None = None) -> str:
        text = BLOCKS[page][number]
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        paths = {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=place, env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
            text=True, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def latest(folder: Path) -> Path:
    """The output that a command without `output=` made last."""
    return max(folder.iterdir(), key=lambda one: one.name)


@pytest.mark.slow
def test_rules_by_file(run_block: RunBlock, place: Path) -> None:
    run_block("evaluation", 0)
    lines = predictions(latest(place / "outputs" / "infer"))
    assert [line["rule"] for line in lines] == ["choice"] * 4 + ["vqa"] * 4


@pytest.mark.slow
def test_a_judge(run_block: RunBlock, place: Path) -> None:
    with JudgeServer(lambda request, seen: said("Score: 3")) as server:
        named = {"http://localhost:8000/v1": server.url, "RUN_DIR": "outputs/run", "NAME": "grader"}
        run_block("evaluation", 1, named)
    # a word before weights load, and every question
    assert len(server.requests) == 1 + 12 and {one["model"] for one in server.requests} == {"grader"}
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer ..."}
    found = json.loads((latest(place / "outputs" / "infer") / "metrics.json").read_text())
    assert found["judge_score"]["multi_image"]["value"] == 3


@pytest.mark.slow
def test_two_runs_compared(run_block: RunBlock, place: Path) -> None:
    assert "wrote outputs/compare/comparison.csv" in run_block("evaluation", 2)
    with (place / "outputs" / "compare" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"base", "tuned"} and {row["against"] for row in rows} == {"base"}
    listed = re.search(r"writes (.*?):", PAGES["evaluation"].split("loads no model, and ")[1])
    assert listed is not None
    for name in re.findall(r"`([\w.]+)`", listed[1]):
        assert (place / "outputs" / "compare" / name).is_file()


@pytest.mark.slow
def test_measured_while_training(run_block: RunBlock, place: Path) -> None:
    run_block("evaluation", 3)
    with (latest(place / "outputs" / "train") / "metrics.csv").open(newline="") as file:
        measured = [row for row in csv.DictReader(file) if row.get("eval/accuracy/multi_image")]
    assert measured and all(row["val/loss"] for row in measured)


@pytest.mark.slow
def test_one_question(run_block: RunBlock) -> None:
    """The console has the lines that the page shows, in their order and shape."""
    told = run_block("export", 0)
    shares = re.findall(r"^(>?) +(\d) +(\S+) +(0\.\d\d) +(0\.\d\d)$", told, re.MULTILINE)
    assert [(mark, number, name) for mark, number, name, _, _ in shares] == [("", "1", "a.png"), (">", "2", "b.png")]
    assert sum(float(share) for *_, share, _ in shares) == pytest.approx(1, abs=0.011)
    assert re.search(r"^confidence 0\.\d\d; attention ratio 0\.\d\d, of an even look 0\.50$", told, re.MULTILINE)


@pytest.mark.slow
def test_merged_weights_and_the_prompt_of_the_page(run_block: RunBlock, place: Path) -> None:
    run_block("export", 1)
    folder = place / "outputs" / "merged"
    assert (folder / "export.json").is_file()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGES["export"], re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {
        name: Image.open(place / f"{file}.png") for name, file in (("first", "a"), ("second", "b"))
    }
    exec(compile(block, "export.md", "exec"), names)
    given = processor.apply_chat_template(
        [{"role": "user", "content": names["content"]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    answer = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > given["input_ids"].shape[1]


@pytest.mark.slow
def test_an_adapter_under_the_name_of_its_base(run_block: RunBlock, place: Path) -> None:
    run_block("export", 2)
    folder = place / "outputs" / "adapter"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "llava-hf/llava-1.5-7b-hf"
    assert "llava-hf/llava-1.5-7b-hf" in (folder / "README.md").read_text()
    mine, given = (
        load_file(one / "adapter_model.safetensors") for one in (folder, place / "outputs" / "run" / "adapter")
    )
    assert {tuple(value.shape) for value in mine.values()} == {tuple(value.shape) for value in given.values()}
