"""Ids of one stretch of text as sentencepiece makes them, from either file that a model folder may hold.

LLaMA's tokenizer is published in three forms: `tokenizer.model` (sentencepiece), and `tokenizer.json` whose
spaces are dealt with by a normalizer (`Prepend`, `Replace`) or by a pre-tokenizer (`Metaspace`). Read as their
libraries read them they disagree on a stretch that begins with a space, on runs of spaces and behind special
tokens, and `legacy` in tokenizer_config.json moves all three. Here the files are read themselves and give what
sentencepiece gives: a dummy prefix in front of every stretch, runs of spaces as they are, no special tokens.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from tokenizers import Tokenizer
from transformers.utils.hub import cached_file

from lookright.backbones.folder import readable
from lookright.backbones.tensor_files import check_file
from lookright.common.strict_json import read_object
from lookright.errors import ConfigError

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
"""The first that a folder has is read; `tokenizer.model` is what the others were made from."""
SPACE = "▁"
"""What sentencepiece writes for a space (U+2581)."""
ONE_BY_ONE = "lookright_one_by_one"


class TextTokenizer(Protocol):
    """Text to ids and back, in plain stretches.

    Text that spells a special token (`<s>`, `</s>`, `<image>`) stays text: an answer cannot end itself, and
    a prompt cannot open another turn. The originals would read it as the token.
    """

    def encode(self, text: str) -> list[int]:
        """Ids of one stretch, nothing added in front or behind but the dummy prefix of its kind; none for ""."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens and ids outside the vocabulary give nothing."""

    def piece_id(self, piece: str) -> int | None:
        """Id of a piece or special token, None where there is none."""


class SentencePieceTokenizer:
    """A `tokenizer.model` through the sentencepiece package; its user-defined pieces are found in text."""

    def __init__(self, file: Path) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(file))

    def encode(self, text: str) -> list[int]:
        """See TextTokenizer."""
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See TextTokenizer."""
        return self._processor.decode([int(index) for index in ids if self._is_text(int(index))])

    def piece_id(self, piece: str) -> int | None:
        """See TextTokenizer."""
        index = self._processor.piece_to_id(piece)
        return index if self._processor.id_to_piece(index) == piece else None

    def _is_text(self, index: int) -> bool:
        processor = self._processor
        inside = 0 <= index < processor.get_piece_size()
        return inside and not processor.is_control(index) and not processor.is_unknown(index)


class JsonTokenizer:
    """A `tokenizer.json` through the tokenizers package.

    A sentencepiece-like one is brought to one form, whichever step of it makes spaces into `▁`; a byte-level one
    stays as it is. `markers` are special tokens that text may spell: the turn pieces of a chat template.
    """

    def __init__(self, file: Path, markers: Sequence[str] = ()) -> None:
        data = read_object(file, "fetch it again")
        # what a file was last used with: a truncation would cut prompts
        data |= {"truncation": None, "padding": None}
        for token in data["added_tokens"]:
            token["special"] = token["special"] and token["content"] not in markers
        self._specials = {token["id"] for token in data["added_tokens"] if token["special"]}
        self._like_sentencepiece = writes_spaces(data)
        self._prefix = as_sentencepiece(data) if self._like_sentencepiece else ""
        self._tokenizer = Tokenizer.from_str(json.dumps(data))
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """See TextTokenizer."""
        return self._tokenizer.encode(self._prefix + text, add_special_tokens=False).ids if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """See TextTokenizer."""
        ids = [int(index) for index in ids if index >= 0 and index not in self._specials]
        if not self._like_sentencepiece:
            return self._tokenizer.decode(ids)
        pieces = [piece for piece in map(self._tokenizer.id_to_token, ids) if piece is not None]
        text = b"".join(map(_piece_bytes, pieces)).decode("utf-8", errors=ONE_BY_ONE)
        return text.removeprefix(" ") if self._prefix else text

    def piece_id(self, piece: str) -> int | None:
        """See TextTokenizer."""
        return self._tokenizer.token_to_id(piece)


def tokenizer_file(path: str | Path) -> Path:
    """The tokenizer file of a folder or hub name; raises ConfigError where it has none."""
    for name in TOKENIZER_FILES:
        found = cached_file(
            str(path), name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if found is not None:
            return Path(found)
    raise ConfigError(
        f"backbone.path={path} holds no tokenizer; copy the official tokenizer.model there (or a tokenizer.json)"
    )


def read_tokenizer(file: Path, markers: Sequence[str] = ()) -> TextTokenizer:
    """The tokenizer in a `tokenizer.model` or `tokenizer.json`; `markers` as JsonTokenizer has them.

    Raises ConfigError for a damaged file.
    """
    check_file(file)
    with readable(file, "the tokenizer"):
        return SentencePieceTokenizer(file) if file.suffix == ".model" else JsonTokenizer(file, markers)


def writes_spaces(data: dict[str, Any]) -> bool:
    """Whether a BPE has a step that makes spaces into `▁`, as models converted from sentencepiece do."""
    steps = [*_steps(data["normalizer"]), *_steps(data["pre_tokenizer"])]
    return data["model"]["type"] == "BPE" and any(_is_space_step(step) for step in steps)


def as_sentencepiece(data: dict[str, Any]) -> str:
    """Leave one step that makes spaces into `▁`; return the dummy prefix that goes in front of a stretch.

    The prefix is put in front by hand: each library step that does it leaves it out somewhere (Metaspace before
    a space, Prepend on what follows an added token gives one too many).
    """
    normalizers, pre_tokenizers = _steps(data["normalizer"]), _steps(data["pre_tokenizer"])
    prefix = SPACE if any(_is_prefix_step(step) for step in [*normalizers, *pre_tokenizers]) else ""
    kept = [step for step in normalizers if not _is_space_step(step) and not _is_prefix_step(step)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    data["normalizer"] = {"type": "Sequence", "normalizers": [*kept, replace]}
    kept = [step for step in pre_tokenizers if step["type"] != "Metaspace"]
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": kept} if kept else None
    return prefix


def _piece_bytes(piece: str) -> bytes:
    """What a piece of a sentencepiece-like vocabulary says; `<0xE7>` is one byte of a character without a piece."""
    found = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(found[1]) if found else piece.replace(SPACE, " ").encode()


def _replace_one(error: Any) -> tuple[str, int]:
    """One mark for each byte that makes no character, as sentencepiece writes it; what follows is read again.

    The library's own decoder drops whole characters beside a broken one, where an answer was cut off.
    """
    return "\N{REPLACEMENT CHARACTER}", error.start + 1


codecs.register_error(ONE_BY_ONE, _replace_one)


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences opened."""
    return list(_opened([] if step is None else [step]))


def _opened(steps: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if step["type"] == "Sequence":
            yield from _opened(step["normalizers"] if "normalizers" in step else step["pretokenizers"])
        else:
            yield step


def _is_space_step(step: dict[str, Any]) -> bool:
    return step["type"] == "Metaspace" or (step["type"] == "Replace" and step["content"] == SPACE)


def _is_prefix_step(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        # files older than `prepend_scheme` have `add_prefix_space`
        return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
    return step["type"] == "Prepend" and step["prepend"] == SPACE
