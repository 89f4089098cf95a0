"""Text to ids and back, without remote code: the official sentencepiece file, or a tokenizer.json.

Only plain text goes in: control pieces written out in a text (`<s>`, `</s>`) stay text, and the ids beyond
the embedding that added_tokens.json lists (92544 and up) cannot come out.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from lookright.errors import ConfigError

END_OF_TURN = "[UNUSED_TOKEN_145]"
START_OF_TURN = "[UNUSED_TOKEN_146]"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")


class TextTokenizer(Protocol):
    """What the backbone asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone, nothing added in front or behind."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; control pieces give nothing."""

    def piece_id(self, piece: str) -> int | None:
        """Id of a piece, None where the vocabulary lacks it."""


class SentencePieceTokenizer:
    """The official tokenizer.model through the sentencepiece package."""

    def __init__(self, file: Path) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(file))

    def encode(self, text: str) -> list[int]:
        """See TextTokenizer."""
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See TextTokenizer."""
        return self._processor.decode(list(ids))

    def piece_id(self, piece: str) -> int | None:
        """See TextTokenizer."""
        index = self._processor.piece_to_id(piece)
        return index if self._processor.id_to_piece(index) == piece else None


class JsonTokenizer:
    """A tokenizer.json of the tokenizers library; the small backbone has one."""

    def __init__(self, file: Path) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))

    def encode(self, text: str) -> list[int]:
        """See TextTokenizer."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """See TextTokenizer."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def piece_id(self, piece: str) -> int | None:
        """See TextTokenizer."""
        return self._tokenizer.token_to_id(piece)


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer file of a folder; raises ConfigError where it has none."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"backbone.path={folder} holds no tokenizer; copy the official tokenizer.model there (or a tokenizer.json)"
    )


def load_tokenizer(folder: Path, vocab_size: int) -> TextTokenizer:
    """The folder's tokenizer; raises ConfigError where it lacks the pieces of a turn or exceeds the embedding."""
    file = tokenizer_file(folder)
    tokenizer = SentencePieceTokenizer(file) if file.suffix == ".model" else JsonTokenizer(file)
    for piece in (START_OF_TURN, END_OF_TURN):
        index = tokenizer.piece_id(piece)
        if index is None or index >= vocab_size:
            raise ConfigError(
                f"{file} gives {piece} the id {index}; the chat template needs it as a piece with an id below "
                f"vocab_size={vocab_size}: take the tokenizer that belongs to the model"
            )
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer file of one folder into another."""
    file = tokenizer_file(source)
    if file.parent.resolve() != folder.resolve():
        shutil.copyfile(file, folder / file.name)
