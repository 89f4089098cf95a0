"""A backbone folder made from nothing: a tokenizer for the embedded sources and a small architecture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.composing.formats.base import lower_first
from lookright.composing.formats.pic_in_pic import PHRASES
from lookright.composing.sources.base import Source
from recipes.tiny.folders import write_llava_folder
from recipes.tiny.ixc25_folder import write_ixc25_folder

FRAME = ("USER: ASSISTANT:", "user\nassistant\n", "Image1: Image2: In Image3,", "\n")


def texts_of(sources: Sequence[Source]) -> Iterator[str]:
    """Everything that a prompt made of these sources can say."""
    for source in sources:
        for row in source.rows("train"):
            yield f"{row.question} {lower_first(row.question)} {row.answer}"
    for _ in range(1000):  # as frequent as any question, so that no word of a prompt falls apart
        yield from (*FRAME, *PHRASES)


def fresh_llava(
    folder: str,
    sources: Sequence[Source],
    vocab_size: int,
    text: Mapping[str, int],
    vision: Mapping[str, int],
    max_length: int = 2048,
) -> LlavaBackbone:
    """A LLaVA without weights in `folder`; `text` and `vision` name sizes as LlamaConfig and CLIPVisionConfig do."""
    write_llava_folder(
        Path(folder),
        texts_of(sources),
        vocab_size=vocab_size,
        text=dict(text),
        vision=dict(vision),
        max_length=max_length,
        vision_feature_layer=-1,
    )
    return LlavaBackbone(path=folder, max_length=max_length)


def fresh_ixc25(
    folder: str,
    sources: Sequence[Source],
    vocab_size: int,
    text: Mapping[str, Any],
    vision: Mapping[str, int],
    hd_num: int,
    max_length: int = 2048,
) -> Ixc25Backbone:
    """An InternLM-XC2.5 without weights in `folder`; sizes as Ixc25Config and its vision part name them."""
    write_ixc25_folder(
        Path(folder),
        texts_of(sources),
        vocab_size=vocab_size,
        text=dict(text),
        vision=dict(vision),
        max_length=max_length,
    )
    return Ixc25Backbone(path=folder, hd_num=hd_num, max_length=max_length)
