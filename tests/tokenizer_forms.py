"""A small vocabulary of LLaMA's kind in its published forms, LLaVA folders around it, and what reaches a model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch import Tensor, nn

from lookright.backbones.tokenizer import SPACE
from lookright.packing.logprobs import token_logps
from lookright.types import IMAGE_PLACEHOLDER
from recipes.tiny.folders import write_llava_folder

FORMS = ("model", "prepend", "metaspace", "old_metaspace")
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEXT = """USER: Image1: Image2: In Image2, what color is the shape? ASSISTANT: It is red, isn't it? USER: 1, 2, 3
The first picture shows a "red" circle; the second one (on the right) shows two blue squares: 45 % of it. yes no
- a list\n- of things\n1. one\n2. two\n   indented    text      with runs of spaces\nImage1:\nImage2:\n
def f(x):\n    return x + 1\n        # twice as far\nВот красный круг. Две собаки и кошка. это 中文 的 图片 红色 圆形"""
CASES = (
    ("<image>\nWhat color is it?", "The car is red."),
    ("<image>\nHow many?", "7"),
    ("Image1:<image>\nImage2:<image>\nIn Image2, is it red?", '"Yes", it isn\'t (45 % of it).'),
    ("<image> What color is it?", "- red\n- blue\n\n1. one\n2. two"),
    ("<image>What color is it?", "  two spaces in front, three behind   "),
    ("<image>   What   color?", "def f(x):\n    return x + 1\n        # twice"),
    ("What is <image>?", "Две собаки, 3 кошки"),
    ("<image><image>", "这是红色的圆形。 🐕 été"),
    ("no picture", ""),
    (" <image> \n ", "\n\nthe answer\n"),
    ("<image>\n</s> what?", "no </s> no <s>, <unk> <image> <0x0A> no"),
)
"""Prompts and answers: quotes, digits, lists, lines, other scripts, spaces and nothing at every edge."""


def train_model(folder: Path, texts: Sequence[str] = (TEXT,), **changes: Any) -> Path:
    """A `tokenizer.model` with LLaMA's settings: BPE on the text as it is, dummy prefix, bytes for the unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "vocab_size": 600,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "hard_vocab_limit": False,
        "character_coverage": 0.99,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n")] * 3),
        model_prefix=str(folder / "tokenizer"),
        **(settings | changes),
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


def read_model(file: Path) -> ModelProto:
    """What a `tokenizer.model` holds."""
    return ModelProto.FromString(file.read_bytes())


def merges_of(model: ModelProto) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best piece first."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=scores.get, reverse=True)
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    # pieces of spaces share one score: the longer left side first, as sentencepiece goes from left to right
    return sorted(
        pairs, key=lambda pair: (-scores["".join(pair)], -len(pair[0]) if not "".join(pair).strip(SPACE) else 0)
    )


def json_form(
    model: ModelProto, form: str, markers: Sequence[str] = (), merges: Sequence[Sequence[str]] | None = None
) -> dict[str, Any]:
    """A `tokenizer.json` as transformers writes it: `prepend` with legacy=true, `metaspace` with legacy=false."""
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    dummy = model.normalizer_spec.add_dummy_prefix
    prepend = [{"type": "Prepend", "prepend": SPACE}] if dummy else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first" if dummy else "never"}
    specials = [*(piece.piece for piece in model.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)), *markers]
    bos = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {
        "version": "1.0",
        # as a file is left by its last use
        "truncation": {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": number, "content": content, "special": True, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for content, number in [
                *((name, vocabulary[name]) for name in specials),
                (IMAGE_PLACEHOLDER, len(vocabulary)),
            ]
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, spaces]} if form == "prepend" else None,
        "pre_tokenizer": {
            "prepend": None,
            "metaspace": metaspace | {"split": False},
            # before prepend_scheme, and one word at a time
            "old_metaspace": {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": dummy},
        }[form],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": bos,
        },
        "decoder": {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in (merges_of(model) if merges is None else merges)],
        },
    }


def write_form(folder: Path, form: str, model_file: Path, **options: Any) -> None:
    """Put a tokenizer in one of the forms into a folder, in place of the one that lies there."""
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    if form == "model":
        (folder / "tokenizer.model").write_bytes(model_file.read_bytes())
        return
    data = json_form(read_model(model_file), form, **options)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_llava(
    folder: Path, form: str, legacy: bool, model_file: Path, vision: Mapping[str, int] | None = None, **options: Any
) -> Path:
    """A LLaVA folder without weights whose vocabulary is that of `model_file`, its picture token behind it."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
    tower = {"image_size": 42, "patch_size": 14, "hidden_size": 24, "intermediate_size": 32}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 2}
    vision = dict(vision or tower | heads)
    write_llava_folder(folder, ["text"], vocab_size=330, text=text | {"num_key_value_heads": 4}, vision=vision)
    write_form(folder, form, model_file, **options)
    config = json.loads((folder / "config.json").read_text())
    size = len(read_model(model_file).pieces)
    config["image_token_id"] = size
    # as LLaVA-1.5 has them: placeholder and pad token, and rows up to a multiple of 64
    config["text_config"]["vocab_size"] = (size // 64 + 1) * 64
    (folder / "config.json").write_text(json.dumps(config))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings))
    return folder


def original_ids(model_file: Path, prompt: str, answer: str | None, num_tokens: int = 9) -> list[int]:
    """LLaVA-1.5's own way on vicuna_v1: one string, split at the pictures, sentencepiece on each chunk, BOS once."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    num_pictures = prompt.count(IMAGE_PLACEHOLDER)
    said = "" if answer is None else f" {answer}"
    chunks = f"{VICUNA} USER: {prompt} ASSISTANT:{said}".split(IMAGE_PLACEHOLDER, num_pictures)
    ids = [model.bos_id(), *model.encode(chunks[0])]
    for chunk in chunks[1:]:
        ids += [model.get_piece_size()] * num_tokens + model.encode(chunk)
    return ids if answer is None else [*ids, model.eos_id()]


@contextmanager
def embedded(num_rows: int) -> Iterator[list[Tensor]]:
    """Everything that goes into an embedding of so many rows, int64[B, L] a call."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding) and module.num_embeddings == num_rows:
            seen.append(args[0].detach().clone())

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def scored() -> Iterator[list[list[int]]]:
    """The tokens that every packed pass predicts."""
    seen: list[list[int]] = []

    def note(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets.tolist())
        return token_logps(logits, targets)

    with patch("lookright.packing.forward.token_logps", note):
        yield seen
