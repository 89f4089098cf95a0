"""The official tokenizer and the pieces that mark its turns, without remote code.

The ids beyond the embedding that added_tokens.json lists (92544 and up) cannot come out.
"""

import shutil
from pathlib import Path

from lookright.backbones.tokenizer import TextTokenizer, read_tokenizer, tokenizer_file
from lookright.errors import ConfigError

END_OF_TURN = "[UNUSED_TOKEN_145]"
START_OF_TURN = "[UNUSED_TOKEN_146]"


def load_tokenizer(folder: Path, vocab_size: int) -> TextTokenizer:
    """The folder's tokenizer; raises ConfigError where it lacks the pieces of a turn or exceeds the embedding."""
    file = tokenizer_file(folder)
    tokenizer = read_tokenizer(file, markers=(START_OF_TURN, END_OF_TURN))
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
