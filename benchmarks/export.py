"""Export round trips: answers of infer.py with an adapter against those of what python -m lookright.export wrote.

    python -m benchmarks.export [--questions 200] [--output outputs/export_check]

Questions are easy-VQA's test split with 1 to 5 pictures, as generate.py composes them. Adapters have random second
matrices, so that their answers leave the base's; projectors move too where it says so. LLaVA in the stock layout is
answered by transformers alone (AutoProcessor, AutoModelForImageTextToText, generate), the authors' layout and
InternLM-XC2.5 by infer.py on the exported folder. Prints a table, writes export.json.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.config import schema
from lookright.config.folders import CONFIG_FOLDER
from lookright.export.command import export
from lookright.records.records import read_prompts
from lookright.tuning.lora import LoraTuning
from tests.backbones.ixc25.small import write_small
from tests.examples import lively_model, shake_adapters, trained_parameters
from tests.tokenizer_forms import train_model, write_llava

ASSETS = Path(schema.__file__).parents[1] / "backbones" / "assets"
NUM_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class Case:
    """A base folder, and the layout that it is written in."""

    name: str
    backbone: str
    path: Path
    layout: str
    train_projector: bool = False

    @property
    def chosen(self) -> list[str]:
        """Overrides that choose the backbone."""
        return [f"backbone={self.backbone}", f"backbone.path={self.path}"]

    def open(self) -> Backbone:
        """The backbone with the settings of its file."""
        if self.backbone == "tiny_llava":
            return LlavaBackbone(path=str(self.path), max_length=2048)
        return Ixc25Backbone(path=str(self.path), hd_num=4, max_length=2048)


def config(command: str, *overrides: str) -> Any:
    """A command's config."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(command, list(overrides))


def make_questions(folder: Path, count: int) -> Path:
    """A fifth about one picture, the rest about two to five."""
    shared = ["source=easy_vqa", "stage=compose", "split=test", f"output={folder}"]
    numbers = f"num_prompts={{sequence:{count - count // 5},single_image:{count // 5}}}"
    mixture = "composers.sequence.mixture={2:1,3:1,4:1,5:1}"
    generate(config("generate", *shared, "formats=[sequence,single_image]", numbers, mixture))
    return folder / "instructions.jsonl"


def make_adapter(case: Case, folder: Path) -> Path:
    """Random second matrices; a projector that trains moves by a tenth."""
    backbone = case.open()
    tuning = LoraTuning(r=8, alpha=16, train_projector=case.train_projector)
    policy: nn.Module = shake_adapters(tuning.apply(backbone, backbone.build()), size=0.3)
    for name, parameter in trained_parameters(policy).items():
        if ".lora_" not in name:
            parameter.data += 0.1 * parameter.data.std() * torch.randn_like(parameter)
    policy.save_pretrained(folder)
    return folder


def write_bases(folder: Path) -> dict[str, Path]:
    """Random weights: a LLaVA with LLaMA's kind of vocabulary in both layouts, and an InternLM-XC2.5."""
    stock = write_llava(folder / "llava_empty", "prepend", legacy=True, model_file=train_model(folder / "pieces"))
    backbone = LlavaBackbone(path=str(stock))
    backbone.save_pretrained(lively_model(backbone, torch.float32), folder / "llava")
    backbone = LlavaBackbone(path=str(folder / "llava"))
    original = folder / "llava_original"
    backbone.export(backbone.build(), original, layout="original", home=original)
    # as it is published: sentencepiece's own file, which knows no token for pictures
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (original / name).unlink(missing_ok=True)
    shutil.copyfile(folder / "pieces" / "tokenizer.model", original / "tokenizer.model")
    return {"llava": folder / "llava", "llava_original": original, "ixc25": write_small(folder / "ixc25")}


def predictions(folder: Path) -> dict[str, str]:
    """Answers by id."""
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return {line["id"]: line["prediction"] for line in map(json.loads, lines)}


def by_infer(chosen: Sequence[str], questions: Path, folder: Path) -> dict[str, str]:
    """What infer.py answers, in its usual batches."""
    given = [f"data.path={questions}", f"decode.max_new_tokens={NUM_TOKENS}", "overlays=0", "dtype=float32"]
    infer(config("infer", *chosen, *given, f"output={folder}"))
    return predictions(folder)


@torch.no_grad()
def by_stock(folder: Path, questions: Path, backbone: Backbone) -> dict[str, str]:
    """What transformers answers by itself; the ids are put into words by our decoder, which both sides then share."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    found = {}
    for prompt in read_prompts(questions):
        pictures = [Image.open(questions.parent / name) for name in prompt.images]
        turn = [{"role": "user", "content": prompt.prompt}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True)
        inputs = processor(images=pictures, text=text, return_tensors="pt")
        (row,) = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        found[prompt.id] = backbone.decode(row[inputs["input_ids"].shape[1] :].tolist())
    return found


def measure(case: Case, questions: Path, folder: Path) -> dict[str, Any]:
    """How many answers are equal, how many of them are not the base's, and what the export said."""
    adapter = make_adapter(case, folder / "adapter")
    written = folder / "written"
    note = export(config("export", *case.chosen, f"adapter={adapter}", f"layout={case.layout}", f"output={written}"))
    wanted = by_infer([*case.chosen, f"adapter={adapter}"], questions, folder / "with_adapter")
    # once for all cases of a base
    base = by_infer(case.chosen, questions, folder.parent / f"base_{case.path.name}")
    if case.layout == "stock":
        found = by_stock(written, questions, case.open())
    else:
        found = by_infer([f"backbone={case.backbone}", f"backbone.path={written}"], questions, folder / "exported")
    return {
        "case": case.name,
        "layout": case.layout,
        "questions": len(wanted),
        "equal": sum(found[key] == wanted[key] for key in wanted),
        "unlike_base": sum(base[key] != wanted[key] for key in wanted),
        "distinct": len(set(wanted.values())),
        "logits": note["merged_against_adapter"]["largest"],
    }


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("outputs/export_check"))
    given = parser.parse_args()
    schema.register()
    torch.manual_seed(0)
    shutil.rmtree(given.output, ignore_errors=True)
    questions = make_questions(given.output / "questions", given.questions)
    bases = write_bases(given.output / "bases")
    tiny = {"backbone": "tiny_llava", "path": ASSETS / "tiny_llava"}
    small = {"backbone": "tiny_llava", "path": bases["llava"]}
    authors = {"backbone": "tiny_llava", "path": bases["llava_original"]}
    ixc25 = {"backbone": "tiny_ixc25", "layout": "official"}
    cases = [
        Case(name="tiny_llava", layout="stock", **tiny),
        Case(name="tiny_llava, projector too", layout="stock", train_projector=True, **tiny),
        Case(name="tiny_llava", layout="original", **tiny),
        Case(name="random LLaVA", layout="stock", **small),
        Case(name="random LLaVA in the authors' layout", layout="stock", **authors),
        Case(name="random LLaVA in the authors' layout", layout="original", **authors),
        Case(name="tiny_ixc25", path=ASSETS / "tiny_ixc25", **ixc25),
        Case(name="random XComposer2.5, projector too", path=bases["ixc25"], train_projector=True, **ixc25),
    ]
    rows = [measure(case, questions, given.output / str(number)) for number, case in enumerate(cases)]
    (given.output / "export.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| base | layout | equal answers | of them not the base's | distinct | largest difference of logits |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['case']} | `{row['layout']}` | {row['equal']} of {row['questions']} | {row['unlike_base']} "
            f"| {row['distinct']} | {row['logits']:.1e} |"
        )


if __name__ == "__main__":
    main()
