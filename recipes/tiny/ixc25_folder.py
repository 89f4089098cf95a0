"""A folder for a small XComposer2.5: configuration and tokenizer; weights come from training."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.tokenizer import END_OF_TURN, START_OF_TURN
from lookright.types import IMAGE_PLACEHOLDER
from recipes.tiny.folders import train_tokenizer


def write_ixc25_folder(
    folder: Path,
    texts: Iterable[str],
    *,
    vocab_size: int,
    text: dict[str, Any],
    vision: dict[str, Any],
    max_length: int = 4096,
) -> None:
    """Write config.json and tokenizer.json.

    `text` and `vision` are keyword arguments of Ixc25Config and Ixc25VisionConfig (sizes; the tile is
    `vision["image_size"]`). A small model has no partial-LoRA dropout unless `text` asks for it.
    """
    specials = ["<unk>", "<s>", "</s>", IMAGE_PLACEHOLDER, END_OF_TURN, START_OF_TURN]
    tokenizer = train_tokenizer(texts, vocab_size, specials, bos="<s>")
    config = Ixc25Config(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=max_length,
        max_seq_length=max_length,
        image_token_id=tokenizer.token_to_id(IMAGE_PLACEHOLDER),
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
        pad_token_id=tokenizer.token_to_id("<unk>"),
        vision_config=vision,
        **({"plora_dropout": 0.0} | text),
    )
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(config.to_official_dict(), indent=2)
    (folder / "config.json").write_text(content + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
