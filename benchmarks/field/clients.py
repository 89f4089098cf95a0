"""The three clients, each asking a running server the questions that `convert.prepare` wrote, and what they got.

Answers come back by record id. VLMEvalKit and lmms-eval run as processes in environments of their own.
"""

import base64
import csv
import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.field.convert import DATASET, TASK, Prepared, bare_question
from lookright.records.records import read_prompts
from lookright.types import Prompt

RUNNER = Path(__file__).parent / "evalkit.py"
CLASSES = ("GPT4V", "LMDeployAPI")
"""VLMEvalKit's for OpenAI-compatible servers: that of its `--config`, and that of its `--base-url`."""
CONCURRENT = 16
MAX_TOKENS = 512
"""As `infer.py`."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Told:
    """What a client got: answers by record id, and the percentage that the evaluator calls right (None: has no say)."""

    answers: dict[str, str]
    score: float | None = None


def ask_openai(address: str, prepared: Prepared) -> Told:
    """OpenAI's own client, with several threads: pictures as they lie on disk, then the text."""
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=600)

    def ask(prompt: Prompt) -> tuple[str, str]:
        content: Any = openai_content(prompt, prepared.png)
        reply = client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=MAX_TOKENS,
        )
        return prompt.id, reply.choices[0].message.content or ""

    with ThreadPoolExecutor(CONCURRENT) as pool:
        return Told(answers=dict(pool.map(ask, read_prompts(prepared.png / "instructions.jsonl"))))


def openai_content(prompt: Prompt, folder: Path) -> list[Any]:
    """Parts of a message: the pictures, PNG files below `folder`, as data URLs, then the text."""
    files = [(folder / image).read_bytes() for image in prompt.images]
    addresses = [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in files]
    pictures = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return [*pictures, {"type": "text", "text": bare_question(prompt)}]


def ask_evalkit(python: Path, sent: str, address: str, prepared: Prepared, folder: Path) -> dict[str, Told]:
    """`python -m vlmeval.run` with each of its `CLASSES`, and its scoring of `DATASET`.

    `sent` is png, without loss (`evalkit.py`), or jpeg, as the package sends pictures; in their own size, since
    `VLMEVAL_MIN_IMAGE_EDGE` would else enlarge what is below 100 pixels.
    """
    shared = {"model": "base", "key": "none", "temperature": 0, "max_tokens": MAX_TOKENS, "retry": 3, "timeout": 600}
    shared |= {"api_base": f"{address}/v1/chat/completions"}
    config = {"model": {kind: shared | {"class": kind} for kind in CLASSES}}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(config | {"data": {DATASET: {"class": "ImageVQADataset", "dataset": DATASET}}}))
    environment = {"LMUData": str(prepared.evalkit.resolve()), "PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv"}
    environment |= {"VLMEVAL_MIN_IMAGE_EDGE": "1", "FIELD_PNG": str(int(sent == "png"))}
    command = [python, RUNNER, "--config", file, "--work-dir", folder, "--api-nproc", CONCURRENT]
    run_logged(command, environment, folder / "run.log")
    return {kind: _told_evalkit(folder / kind / f"{kind}_{DATASET}", prepared) for kind in CLASSES}


def _told_evalkit(stem: Path, prepared: Prepared) -> Told:
    ids = {row["index"]: row["id"] for row in _table(prepared.evalkit / f"{DATASET}.tsv", "\t")}
    predictions = _table(stem.with_name(f"{stem.name}.tsv"), "\t")
    (scores,) = _table(stem.with_name(f"{stem.name}_acc.csv"), ",")
    answers = {ids[row["index"]]: row["prediction"] for row in predictions}
    return Told(answers=answers, score=float(scores["Overall"]))


def _table(path: Path, delimiter: str) -> list[dict[str, str]]:
    # a field holds all pictures of a question
    csv.field_size_limit(2**31 - 1)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def ask_lmms(python: Path, address: str, prepared: Prepared, folder: Path) -> Told:
    """`python -m lmms_eval` with its model `openai`, which sends PNG, and the metric `exact_match`."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = f"model=base,base_url={address}/v1,api_key=none,num_concurrent={CONCURRENT},timeout=600"
    command = [python, "-m", "lmms_eval", "--model", "openai", "--model_args", arguments, "--tasks", TASK]
    command += ["--include_path", prepared.lmms, "--batch_size", 1, "--log_samples", "--output_path", folder]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "cache")}
    run_logged(command, offline, folder / "lmms.log")
    samples = max(folder.rglob(f"*samples_{TASK}.jsonl"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    ids = [json.loads(line)["id"] for line in (prepared.lmms / "questions.jsonl").read_text().splitlines()]
    scores = json.loads(max(folder.rglob("*results.json")).read_text())["results"][TASK]
    answers = {ids[line["doc_id"]]: line["filtered_resps"] for line in lines}
    return Told(answers=answers, score=100 * float(scores["exact_match,none"]))


def run_logged(command: Sequence[Any], environment: dict[str, str], log: Path) -> None:
    """Run to the end with both streams in `log`. Raises RuntimeError with its last lines where that fails."""
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with open(log, "w") as file:
        done = subprocess.run(
            [str(one) for one in command], env=plain | environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-8:])
        raise RuntimeError(f"{command[0]} ended with {done.returncode}; {log} ends with:\n{tail}")
