"""The model and the pairs that every side of a benchmark reads from the same folder.

Architecture of LLaVA: decoder of hidden 512 and 8 layers, vocabulary of 32,000, CLIP of 336 px and patch 14 (576
tokens a picture), random weights. The tower is small (hidden 256, 4 layers), so that its share of a forward pass is
near that in LLaVA-1.5-7B. Answers have 40 tokens, the end token included.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.optim import AdamW

from lookright.backbones.adapters import LoraConfig
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.records.records import write_jsonl
from lookright.training.optimization import Constant, Optimization
from lookright.tuning.lora import LoraTuning
from lookright.types import Preference, Region
from recipes.tiny.folders import write_llava_folder

ANSWER_TOKENS = 40
NUM_PAIRS = 16
WORDS = ["amber", "basin", "cobalt", "dune", "ember", "fjord", "grove", "harbour", "inlet", "jade", "kelp", "lagoon"]
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
VISION = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
VOCAB_SIZE = 32000
LORA_RANK = 16
LEARNING_RATE = 1e-4
BETA = 0.1
SEED = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class Workload:
    """A folder with `model/`, `<n>_images/preferences.jsonl` and `<n>_images_<k>_rejected/preferences.jsonl`."""

    folder: Path

    @property
    def model(self) -> Path:
        """Weights, tokenizer, processor."""
        return self.folder / "model"

    def pairs(self, num_images: int, num_rejected: int = 1) -> Path:
        """Records of so many pictures, with so many rejected answers each."""
        several = "" if num_rejected == 1 else f"_{num_rejected}_rejected"
        return self.folder / f"{num_images}_images{several}" / "preferences.jsonl"

    def backbone(self) -> Backbone:
        """The model's backbone, by its configuration; LLaVA of this page's own model, either of `benchmarks.shapes`."""
        config = json.loads((self.model / "config.json").read_text())
        if config["model_type"] == "llava":
            return LlavaBackbone(path=str(self.model), max_length=config["text_config"]["max_position_embeddings"])
        return Ixc25Backbone(path=str(self.model), max_length=config["max_position_embeddings"])


def make_workload(folder: Path, cases: Iterable[tuple[int, int]]) -> Workload:
    """Write what is not there yet; a case is a number of pictures and one of rejected answers."""
    workload = Workload(folder=folder)
    if not (workload.model / "model.safetensors").is_file():
        _write_model(workload.model)
    for case in cases:
        if not workload.pairs(*case).is_file():
            write_pairs(workload, *case)
    return workload


def lora(rank: int = LORA_RANK, dropout: float = 0.0) -> LoraTuning:
    """Adapters; without dropout two sides compute the same numbers."""
    return LoraTuning(r=rank, alpha=2 * rank, dropout=dropout)


def plain_lora(backbone: Backbone, rank: int = LORA_RANK) -> LoraConfig:
    """The same adapters for sides that know PEFT alone."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=backbone.lora_targets())


def optimization() -> Optimization:
    """AdamW at a constant rate."""
    return Optimization(optimizer=partial(AdamW, lr=LEARNING_RATE, weight_decay=0.0), schedule=Constant(warmup=0.0))


def _write_model(folder: Path) -> None:
    # as many words as tokens: the tokenizer is then as large as LLaVA's and knows every answer word whole
    rng = random.Random(SEED)
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = ["".join(rng.choices(letters, k=rng.randint(3, 7))) for _ in range(60000)]
    texts += [f"{' '.join(WORDS)} USER: Image1: Image2: In Image2, what is it? ASSISTANT:"] * 100
    write_llava_folder(folder, texts, vocab_size=VOCAB_SIZE, text=TEXT, vision=VISION)
    backbone = LlavaBackbone(path=str(folder))
    torch.manual_seed(SEED)
    backbone.save_pretrained(backbone.build(weights=False), folder)


def write_pairs(workload: Workload, num_images: int, num_rejected: int = 1) -> None:
    """Records, and pictures beside them."""
    backbone, path = workload.backbone(), workload.pairs(num_images, num_rejected)
    rng = random.Random(f"{SEED}/{num_images}")
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(NUM_PAIRS):
        names = [f"images/{number}_{place}.png" for place in range(num_images)]
        for name in names:
            _picture(rng).save(path.parent / name)
        target = rng.randrange(num_images)
        shown = "\n".join(f"Image{place + 1}:<image>" for place in range(num_images))
        records.append(
            Preference(
                id=str(number),
                images=names,
                prompt=f"{shown}\nIn Image{target + 1}, what is it?",
                chosen=_answer(backbone, rng),
                rejected=[_answer(backbone, rng) for _ in range(num_rejected)],
                format="sequence",
                target=target,
                regions=[Region(picture=place, box=(0, 0, 400, 300), source=str(place)) for place in range(num_images)],
            )
        )
    write_jsonl(path, records)


def _picture(rng: random.Random) -> Image.Image:
    """A few coarse blocks of colour."""
    small = Image.frombytes("RGB", (8, 6), bytes(rng.randrange(256) for _ in range(8 * 6 * 3)))
    return small.resize((400, 300), Image.Resampling.BICUBIC)


def _answer(backbone: Backbone, rng: random.Random) -> str:
    """Words that make `ANSWER_TOKENS` tokens with the end token."""
    words: list[str] = []
    while _num_tokens(backbone, " ".join([*words, WORDS[0]])) <= ANSWER_TOKENS:
        words.append(rng.choice(WORDS))
    return " ".join(words)


def _num_tokens(backbone: Backbone, answer: str) -> int:
    _, (response,) = backbone.encode_conversation("", [answer], [])
    return len(response)
