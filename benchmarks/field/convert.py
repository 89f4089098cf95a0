"""A test set of ours as both evaluators read one, and as `infer.py` reads the very same questions.

None of it needs the evaluators.
"""

import base64
import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lookright.common.pictures import open_rgb
from lookright.records.records import read_prompts, write_jsonl
from lookright.serve.messages import question_text
from lookright.types import Prompt

SUFFIX = "\nAnswer the question using a single word or phrase."
"""What both append to short-answer questions: VLMEvalKit's `ImageVQADataset`, and the task `gqa` of lmms-eval."""
DATASET = "GQA_LookRight"
"""VLMEvalKit scores a data set by what its name contains: GQA is equality but for case."""
TASK = "lookright_test"
"""Of lmms-eval."""
_FILES = Path(__file__).parent / "task"


@dataclass(slots=True, frozen=True, kw_only=True)
class Prepared:
    """What `prepare` wrote.

    `png` and `jpeg` are test sets for `infer.py`: the questions with `SUFFIX`, with their pictures as they were and as
    VLMEvalKit sends them. `evalkit` is its data root (LMUData), `lmms` the folder of lmms-eval's task.
    """

    png: Path
    jpeg: Path
    evalkit: Path
    lmms: Path


def prepare(data: Path, folder: Path) -> Prepared:
    """Write a test set in all forms below `folder`. Raises ValueError for a record without a picture."""
    prompts = list(read_prompts(data))
    questions = [bare_question(prompt) for prompt in prompts]
    paths = [[data.parent / image for image in prompt.images] for prompt in prompts]
    prepared = Prepared(png=folder / "png", jpeg=folder / "jpeg", evalkit=folder / "LMUData", lmms=folder / "lmms")
    write_set(prepared.png, prompts, paths, "png")
    write_set(prepared.jpeg, prompts, paths, "jpg")
    write_evalkit(prepared.evalkit, prompts, questions, paths)
    write_lmms(prepared.lmms, prompts, questions, paths)
    return prepared


def bare_question(prompt: Prompt) -> str:
    """The text of a prompt that a client sends behind its pictures, so that the server makes the same prompt of both.

    Pictures that stand elsewhere than the style `labelled` puts them stay in the text as `<image>`. Raises ValueError
    for a record without a picture.
    """
    if not prompt.images:
        raise ValueError(f"record {prompt.id} has no picture, and both evaluators want one; leave it out")
    parts: list[str | bytes] = [b""] * len(prompt.images)
    question = prompt.prompt.removeprefix(question_text([*parts, "?"], "labelled")[:-1])
    assert question_text([*parts, question], "labelled") == prompt.prompt, "a record marks each of its pictures"
    return question


def write_set(folder: Path, prompts: Sequence[Prompt], paths: Sequence[Sequence[Path]], ending: str) -> None:
    """A test set with `SUFFIX`; pictures are copied, or with the ending `jpg` saved as VLMEvalKit does before sending.

    That is PIL's own quality for JPEG, of the picture in RGB.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    renamed = []
    for prompt, files in zip(prompts, paths, strict=True):
        names = [f"{file.stem}.{ending if ending == 'jpg' else file.suffix[1:]}" for file in files]
        for file, name in zip(files, names, strict=True):
            if ending == "jpg":
                open_rgb(file, str(file)).save(images / name, format="JPEG")
            else:
                shutil.copyfile(file, images / name)
        text = prompt.prompt + SUFFIX
        renamed.append(replace(prompt, images=[f"images/{name}" for name in names], prompt=text))
    write_jsonl(folder / "instructions.jsonl", renamed)


def write_evalkit(
    root: Path, prompts: Sequence[Prompt], questions: Sequence[str], paths: Sequence[Sequence[Path]]
) -> None:
    """`DATASET`.tsv: index, image (base64 of a PNG, or a list of them), question, answer, category (our format)."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f"{DATASET}.tsv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["index", "image", "question", "answer", "category", "id"])
        for number, (prompt, question, files) in enumerate(zip(prompts, questions, paths, strict=True)):
            encoded = [base64.b64encode(one.read_bytes()).decode() for one in files]
            image = encoded[0] if len(encoded) == 1 else json.dumps(encoded)
            writer.writerow([number, image, question, prompt.ground_truth, prompt.format, prompt.id])


def write_lmms(
    folder: Path, prompts: Sequence[Prompt], questions: Sequence[str], paths: Sequence[Sequence[Path]]
) -> None:
    """A folder for `--include_path`: the task's YAML with its functions, and the questions it loads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "questions.jsonl"
    with open(rows, "w", encoding="utf-8") as file:
        for prompt, question, files in zip(prompts, questions, paths, strict=True):
            line: dict[str, Any] = {"id": prompt.id, "question": question, "answer": prompt.ground_truth}
            file.write(json.dumps(line | {"images": [str(one.resolve()) for one in files]}) + "\n")
    shutil.copyfile(_FILES / "utils.py", folder / "utils.py")
    template = (_FILES / "task.yaml").read_text()
    text = template.replace("TASK", TASK).replace("ROWS", json.dumps(str(rows.resolve())))
    (folder / f"{TASK}.yaml").write_text(text.replace("SUFFIX", json.dumps(SUFFIX)))
