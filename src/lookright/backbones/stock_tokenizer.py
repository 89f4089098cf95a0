"""A tokenizer that transformers' own classes read as `backbones.tokenizer` does: the same ids for the same text.

A folder's files are copied where they do that already. Where they do not (LLaMA's tokenizer is published in forms that
disagree, see there), one `tokenizer.json` is written whose steps are sentencepiece's: a dummy prefix in front of every
stretch between special tokens, each space as `▁`, runs of spaces as they are.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import AutoTokenizer

from lookright.backbones.tokenizer import SPACE, TextTokenizer, as_sentencepiece, writes_spaces
from lookright.types import IMAGE_PLACEHOLDER

FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PROBES = (
    f"USER: Image1:{IMAGE_PLACEHOLDER}\nImage2:{IMAGE_PLACEHOLDER}\nIn Image2, what color is the 3rd car? ASSISTANT:",
    f"USER: {IMAGE_PLACEHOLDER}{IMAGE_PLACEHOLDER} - a\n- b\n\n   12 runs   of    spaces\tand tabs ASSISTANT:",
    f' A "chat" isn\'t: 45 % (это 中文 🐕). USER: {IMAGE_PLACEHOLDER}\n What? ASSISTANT: ',
)
"""Texts in which the published forms part: spaces at every edge of a stretch, runs of them, bytes."""


def write_stock_tokenizer(
    file: Path, folder: Path, ours: TextTokenizer, *, bos_id: int, end_id: int, pad_id: int, image_id: int, limit: int
) -> bool:
    """Write the tokenizer whose `tokenizer.model` or `tokenizer.json` is `file`; whether stock ids are ours.

    The files beside it are copied, unless they give other ids than `ours` on the probes, or lack the picture token.
    `limit` is the longest row in tokens, for `model_max_length`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, folder / name)
    forget_last_use(folder)
    if _agrees(folder, ours, bos_id, end_id, image_id):
        return True
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    data = _of_sentencepiece(file) if file.suffix == ".model" else _of_json(file)
    pieces = {index: piece for piece, index in data["model"]["vocab"].items()}
    pieces |= {token["id"]: token["content"] for token in data["added_tokens"]}
    if pieces.setdefault(image_id, IMAGE_PLACEHOLDER) != IMAGE_PLACEHOLDER:
        return False
    if not any(token["content"] == IMAGE_PLACEHOLDER for token in data["added_tokens"]):
        data["added_tokens"].append(_special(image_id, IMAGE_PLACEHOLDER))
    bos = pieces[bos_id]
    data |= {"truncation": None, "padding": None, "post_processor": _opening(bos_id, bos)}
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    settings = {
        "bos_token": bos,
        "eos_token": pieces[end_id],
        "pad_token": pieces[pad_id],
        "unk_token": data["model"].get("unk_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": limit,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return _agrees(folder, ours, bos_id, end_id, image_id)


def forget_last_use(folder: Path) -> None:
    """Take out of a `tokenizer.json` what it was last used with: stock processors would cut prompts by it."""
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if data.get("truncation") is not None or data.get("padding") is not None:
        file.write_text(json.dumps(data | {"truncation": None, "padding": None}, ensure_ascii=False), encoding="utf-8")


def our_ids(ours: TextTokenizer, text: str, bos_id: int, image_id: int) -> list[int]:
    """Ids of a text as `Backbone.encode_prompt` makes them, one for each picture."""
    first, *others = (ours.encode(stretch) for stretch in text.split(IMAGE_PLACEHOLDER))
    return [bos_id, *first, *(index for part in others for index in (image_id, *part))]


def _agrees(folder: Path, ours: TextTokenizer, bos_id: int, end_id: int, image_id: int) -> bool:
    """Whether stock ids of each probe alone, and of all as turns with the end token between, are ours."""
    try:
        stock = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError):
        return False  # the files are of a form that stock classes do not read, or need a package that is not there
    alone = [our_ids(ours, text, bos_id, image_id) for text in PROBES]
    turns = [bos_id, *(index for ids in alone for index in (*ids[1:], end_id))][:-1]
    joined = stock.convert_ids_to_tokens(end_id).join(PROBES)
    return [stock(text)["input_ids"] for text in (*PROBES, joined)] == [*alone, turns]


def _of_json(file: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if writes_spaces(data) and as_sentencepiece(data):
        data["normalizer"]["normalizers"].insert(0, {"type": "Prepend", "prepend": SPACE})
    for token in data["added_tokens"]:
        # normalised, a special token has a prefix of its own and is not found behind text
        token["normalized"] = token["normalized"] and not token["special"]
    return data


def _of_sentencepiece(file: Path) -> dict[str, Any]:
    """The `tokenizer.json` of a BPE `tokenizer.model`."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    size = model.get_piece_size()
    pieces = [model.id_to_piece(index) for index in range(size)]
    own = [index for index in range(size) if model.is_control(index) or model.is_unknown(index)]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if pieces[model.encode("a")[0]].startswith(SPACE) else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "added_tokens": [_special(index, pieces[index]) for index in own],
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "unk_token": pieces[model.unk_id()],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": _merges(
                {
                    pieces[index]: model.get_score(index)
                    for index in range(size)
                    if index not in own and not model.is_byte(index)
                }
            ),
        },
    }


def _merges(scores: dict[str, float]) -> list[Sequence[str]]:
    """Every pair of pieces that makes a piece, the best piece first; of spaces the longer left side first.

    Runs of spaces share one score, and sentencepiece goes from left to right.
    """
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in scores
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return sorted(
        pairs, key=lambda pair: (-scores["".join(pair)], -len(pair[0]) if not "".join(pair).strip(SPACE) else 0)
    )


def _special(index: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def _opening(bos_id: int, bos: str) -> dict[str, Any]:
    """BOS in front of every text."""
    one = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [one, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [one, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
