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


def ask_evalkit(python: Path, kind: str, png: bool, address: str, prepared: Prepared, folder: Path) -> Told:
    """`python -m vlmeval.run` with the class `kind` (GPT4V, LMDeployAPI) and its scoring of `DATASET`.

    `png` has pictures sent without loss (`evalkit.py`); else they are what the package makes of them, JPEG, in their
    own size (`VLMEVAL_MIN_IMAGE_EDGE`: it enlarges what is below 100 pixels).
    """
    name = f"{kind}_{'png' if png else 'jpeg'}"
    shared = {"class": kind, "model": "base", "key": "none", "temperature": 0, "max_tokens": MAX_TOKENS}
    model = shared | {"api_base": f"{address}/v1/chat/completions", "retry": 3, "timeout": 600}
    config = {"model": {name: model}, "data": {DATASET: {"class": "ImageVQADataset", "dataset": DATASET}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(config, indent=1))
    environment = {"LMUData": str(prepared.evalkit.resolve()), "PRED_FORMAT": "json", "EVAL_FORMAT": "json"}
    environment |= {"VLMEVAL_MIN_IMAGE_EDGE": "1", "FIELD_PNG": str(int(png))}
    command = [python, RUNNER, "--config", folder / f"{name}.json", "--work-dir", folder, "--api-nproc", CONCURRENT]
    run_logged(command, environment, folder / f"{name}.log")
    stem = folder / name / f"{name}_{DATASET}"
    with open(prepared.evalkit / f"{DATASET}.tsv", newline="", encoding="utf-8") as file:
        csv.field_size_limit(2**31 - 1)
        ids = {row["index"]: row["id"] for row in csv.DictReader(file, delimiter="\t")}
    lines = json.loads(stem.with_name(f"{stem.name}.json").read_text())
    answers = {ids[str(line["index"])]: line["prediction"] for line in lines}
    (scores,) = json.loads(stem.with_name(f"{stem.name}_acc.json").read_text())
    return Told(answers=answers, score=float(scores["Overall"]))


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
    answers = {ids[line["doc_id"]]: line["filtered_resps"][0] for line in lines}
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
