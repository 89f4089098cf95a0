"""The exact LLaMA vocabulary in its three published forms: ids of 50 conversations against the original's procedure.

python -m benchmarks.llama_vocabulary --folder outputs/llama_vocabulary

npm brings the package llama-tokenizer-js into the folder; its vocabulary and merges are written there as
tokenizer.model, and as tokenizer.json with Prepend and with Metaspace. Each form, with `legacy` true and false,
encodes the conversations; they are compared with the sentencepiece library run as the original runs it, and every
stretch of text with the package's own encoder under node. Then train.py, infer.py and generate.py run on a small
model of that vocabulary, and what its embedding and its loss are given is compared.
"""

import argparse
import json
import subprocess
from pathlib import Path

import sentencepiece
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.records.records import read_prompts, write_jsonl
from lookright.types import Preference, Prompt, Region
from tests.tokenizer_forms import VICUNA, embedded, original_ids, scored, write_llava

FORMS = ("model", "prepend", "metaspace")
SIZE = (50, 40)
PROMPTS = (
    "<image>\nWhat color is the car?",
    "<image>\nHow many dogs are there? Answer with a single number.",
    "Image1:<image>\nImage2:<image>\nIn Image2, is the circle red?",
    'Image1: <image>; Image2: <image>; Image3: <image>; Which one shows a "cat"?',
    "<image> What   is written on the sign?",
    "<image>Describe it in three lines:\n1. what\n2. where\n3. when",
    "What is the difference between <image> and <image>?",
    "   <image>\n\nWhat's 45 % of 1,234.56?\n",
    "<image>\n这张图片里有什么？",
    "<image>\nЧто изображено на картинке? ¿Qué hay? 🐕",
)
ANSWERS = (
    "The car is red.",
    "7",
    "12",
    "Yes",
    "no, it isn't.",
    '"STOP", it says; below that: "4-way".',
    "'Single' and “curly” quotes – and a dash.",
    "- a red car\n- two blue ones\n- a bus",
    "1. The first picture.\n2. The second picture.\n\n3. The third.",
    "It shows a dog.\nIt stands on grass.\n\nThe sky is blue.",
    "555.47, that is 45 % of 1,234.56 (rounded).",
    "12:30 on 2024-01-31",
    "这张图片里有一只红色的猫。",
    "На картинке две собаки и 3 кошки.",
    "写真には猫が2匹います。",
    "في الصورة قطة حمراء",
    "तस्वीर में एक कुत्ता है",
    "Un été à l'île: ça va, naïve Zoë? Straße.",
    "🐕🐕 and a 👨‍👩‍👧 family",
    "def f(x):\n    return x + 1\n        # twice as far",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "  two spaces in front, three behind   ",
    "\n\tA tab, a line feed\r\nand a return",
    "https://example.org/a_b?c=%20&d=[1,2]#e",
    "</s> and <s> and <unk> as text; x² ≤ ½ × √y",
)
CONVERSATIONS = [(PROMPTS[n % 10], ANSWERS[n % 25], ANSWERS[(n + 7) % 25]) for n in range(50)]
"""Prompt, chosen and rejected answer; no prompt meets an answer twice."""
DUMP = """
import t from './package/llama-tokenizer.js'
import fs from 'fs'
const stretches = JSON.parse(fs.readFileSync('stretches.json'))
const merges = [...t.merges.entries()].sort((a, b) => a[1] - b[1]).map(entry => entry[0].split(' '))
const ids = stretches.map(text => t.encode(text, false, true))
fs.writeFileSync('dump.json', JSON.stringify({pieces: t.vocabById, merges, ids}))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, required=True, help="a new or empty folder")
    folder: Path = options.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the model is too small for more
    stretches = _stretches()
    dump = _dump(folder, stretches)
    file = folder / "tokenizer.model"
    file.write_bytes(_model(dump["pieces"]).SerializeToString())
    library = sentencepiece.SentencePieceProcessor(model_file=str(file))
    same = sum(library.encode(text) == ids for text, ids in zip(stretches, dump["ids"], strict=True))
    results = [
        f"stretches of text, sentencepiece against llama-tokenizer-js: {same} of {len(stretches)} equal",
        f"'The car is red.' {library.encode('The car is red.')}, '7' {library.encode('7')}",
    ]
    for form in FORMS:
        for legacy in (True, False):
            path = write_llava(folder / f"{form}_{legacy}".lower(), form, legacy, file, merges=dump["merges"])
            results.append(_compare(path, file, dict(zip(stretches, dump["ids"], strict=True))))
        torch.manual_seed(0)
        LlavaBackbone(path=str(path)).build(weights=False).save_pretrained(path)
        for command in (_train, _infer, _generate):
            results.append(f"{path.name}: {command(path, file)}")
    print("\n".join(results))


def _stretches() -> list[str]:
    """All texts between pictures, each once."""
    answers = {answer for _, chosen, rejected in CONVERSATIONS for answer in (chosen, rejected)}
    whole = [f"{VICUNA} USER: {prompt} ASSISTANT: {answer}" for prompt in PROMPTS for answer in sorted(answers)]
    return sorted({text for conversation in whole for text in conversation.split("<image>") if text})


def _dump(folder: Path, stretches: list[str]) -> dict:
    """Pieces and merges of the package, and its own ids of the stretches."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", "llama-tokenizer-js@1.2.2"], cwd=folder, check=True, capture_output=True, text=True
    )
    subprocess.run(["tar", "-xzf", packed.stdout.split()[-1]], cwd=folder, check=True)
    (folder / "stretches.json").write_text(json.dumps(stretches))
    (folder / "dump.mjs").write_text(DUMP)
    subprocess.run(["node", "dump.mjs"], cwd=folder, check=True)
    return json.loads((folder / "dump.json").read_text())


def _model(pieces: list[str]) -> ModelProto:
    """A sentencepiece model with LLaMA's settings. Its scores fall with the ids, those of runs of spaces are last."""
    model = ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for number, text in enumerate(pieces):
        piece = model.pieces.add()
        piece.piece = text
        piece.type = [piece.UNKNOWN, piece.CONTROL, piece.CONTROL][number] if number < 3 else piece.NORMAL
        if 3 <= number < 259:
            piece.type = piece.BYTE
        elif number >= 259:
            piece.score = 259.0 - number if text.strip("▁") else -1e9
    return model


def _compare(path: Path, file: Path, by_stretch: dict[str, list[int]]) -> str:
    """What the backbone makes of each conversation, both answers, alone and together."""
    backbone = LlavaBackbone(path=str(path), system_prompt=VICUNA)
    right = of_package = 0
    for prompt, *answers in CONVERSATIONS:
        sizes = [SIZE] * prompt.count("<image>")
        shared, responses = backbone.encode_conversation(prompt, answers, sizes)
        found = [[*shared.input_ids.tolist(), *response.tolist()] for response in responses]
        asked = backbone.encode_prompt(prompt, sizes).input_ids.tolist() == original_ids(file, prompt, None)
        right += asked and found == [original_ids(file, prompt, answer) for answer in answers]
        edges = [(0, 1), *shared.image_spans]
        for answer, ids in zip(answers, found, strict=True):
            texts = f"{VICUNA} USER: {prompt} ASSISTANT: {answer}".split("<image>")
            ends = [*(span[0] for span in edges[1:]), len(ids) - 1]
            of_package += all(
                ids[start:stop] == by_stretch.get(text, [])
                for text, (_, start), stop in zip(texts, edges, ends, strict=True)
            )
    total = len(CONVERSATIONS)
    return f"{path.name}: {right} of {total} conversations as the original, {of_package} of {2 * total} as the package"


def _config(command: str, path: Path, *overrides: str) -> DictConfig:
    register()
    output = path / command
    given = ["backbone=llava15_7b", f"backbone.path={path}", f"output={output}", *overrides]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(command, overrides=given)


def _pictures(path: Path, count: int) -> list[str]:
    for number in range(count):
        Image.new("RGB", SIZE, (5 * number, 99, 200)).save(path / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def _train(path: Path, file: Path) -> str:
    """One step a pair; the row holds prompt, chosen and rejected, the loss predicts both answers."""
    names = _pictures(path, 3)
    records = [
        Preference(id=str(n), images=names[: prompt.count("<image>")], prompt=prompt, chosen=chosen, rejected=[other])
        for n, (prompt, chosen, other) in enumerate(CONVERSATIONS)
    ]
    write_jsonl(path / "pairs.jsonl", records)
    given = [f"data.path={path / 'pairs.jsonl'}", "data.batch_size=1", "data.val_fraction=0", "loss.attention.weight=0"]
    with embedded(_num_rows(path)) as seen, scored() as predicted:
        train(_config("train", path, *given, "tuning.r=2", "trainer.progress_bar=false"))
    rows = {tuple(row) for call in seen for row in call.tolist()}
    targets = {tuple(row) for row in predicted}
    right = 0
    for prompt, chosen, other in CONVERSATIONS:
        asked = original_ids(file, prompt, None)
        first, second = (original_ids(file, prompt, answer)[len(asked) :] for answer in (chosen, other))
        right += (*asked, *first[:-1], *second[:-1]) in rows and (*first, *second) in targets
    return f"train.py: {right} of {len(CONVERSATIONS)} pairs as the original, in {len(rows)} different rows"


def _infer(path: Path, file: Path) -> str:
    """The prompt is prefilled; the heat map's pass takes the prediction's text in its conversation."""
    names = _pictures(path, 3)
    prompts = [
        Prompt(
            id=str(n),
            images=names[: prompt.count("<image>")],
            prompt=prompt,
            ground_truth=answer,
            format="sequence",
            target=0,
            regions=[Region(picture=k, box=(0, 0, *SIZE), source=str(k)) for k in range(prompt.count("<image>"))],
        )
        for n, (prompt, answer, _) in enumerate(CONVERSATIONS)
    ]
    write_jsonl(path / "prompts.jsonl", prompts)
    given = [f"data.path={path / 'prompts.jsonl'}", "batch_size=4", "decode.max_new_tokens=6", "overlays=50"]
    with embedded(_num_rows(path)) as seen:
        infer(_config("infer", path, *given))
    lines = (path / "infer" / "predictions.jsonl").read_text().splitlines()
    said = {line["id"]: line["prediction"] for line in map(json.loads, lines)}
    rows = {tuple(row[row.index(1) :]) for call in seen for row in call.tolist() if 1 in row}
    right = sum(
        tuple(original_ids(file, prompt.prompt, None)) in rows
        and tuple(original_ids(file, prompt.prompt, said[prompt.id])[:-1]) in rows
        for prompt in prompts
    )
    return f"infer.py: {right} of {len(prompts)} prompts and predictions as the original"


def _generate(path: Path, file: Path) -> str:
    """The composers write prompts around the 50 questions."""
    names = _pictures(path, len(CONVERSATIONS))
    rows = [
        {
            "id": str(n),
            "image": names[n],
            "conversations": [
                {"from": "human", "value": f"<image>\n{prompt.replace('<image>', '')}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for n, (prompt, answer, _) in enumerate(CONVERSATIONS)
    ]
    (path / "rows.json").write_text(json.dumps(rows))
    given = ["source=llava_json", f"source.train_json={path / 'rows.json'}", f"source.image_folder={path}"]
    given += ["num_prompts=50", "batch_size=4", "decode.max_new_tokens=4", "selection=none"]
    with embedded(_num_rows(path)) as seen:
        generate(_config("generate", path, *given))
    found = {tuple(row[row.index(1) :]) for call in seen for row in call.tolist() if 1 in row}
    prompts = list(read_prompts(path / "generate" / "instructions.jsonl"))
    right = sum(tuple(original_ids(file, prompt.prompt, None)) in found for prompt in prompts)
    return f"generate.py: {right} of {len(prompts)} prompts as the original"


def _num_rows(path: Path) -> int:
    return json.loads((path / "config.json").read_text())["text_config"]["vocab_size"]


if __name__ == "__main__":
    main()
