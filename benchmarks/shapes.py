"""Backbones in the shapes of the published models, without their weights, and small ones of the same kind.

A folder holds configuration and tokenizer; weights are drawn on the device, so that neither a disk nor this machine's
memory ever holds a model of 7 billion.
"""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from benchmarks.workload import SEED, WORDS
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.quantization import keep_trainable, require_bitsandbytes
from recipes.tiny.folders import write_llava_folder
from recipes.tiny.ixc25_folder import write_ixc25_folder

TEXTS = [" ".join(WORDS), "USER: Image1: Image2: In Image2, what is it? ASSISTANT:"]
MAX_LENGTH = 16384
"""Five photos of six tiles in InternLM-XC2.5."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Shape:
    """Sizes of one backbone; the tokenizer is a small one, whatever `vocab_size` the embeddings have."""

    title: str
    is_llava: bool
    vocab_size: int
    text: dict[str, int] = field(default_factory=dict)
    vision: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Configuration, tokenizer and processor."""
        write = write_llava_folder if self.is_llava else write_ixc25_folder
        write(folder, TEXTS, vocab_size=600, text=self.text, vision=self.vision, max_length=MAX_LENGTH)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        (config["text_config"] if self.is_llava else config)["vocab_size"] = self.vocab_size
        file.write_text(json.dumps(config, indent=2) + "\n")


SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL_VISION = {"patch_size": 14, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SMALL_VISION |= {"num_attention_heads": 2}
SHAPES = {
    # config.json of llava-hf/llava-1.5-7b-hf, and of its CLIP ViT-L/14 at 336 pixels
    "llava15_7b": Shape(
        title="LLaVA-1.5-7B",
        is_llava=True,
        vocab_size=32064,
        text={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
        vision={
            "image_size": 336,
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    ),
    # the defaults of Ixc25Config are its sizes
    "ixc25_7b": Shape(title="InternLM-XC2.5-7B", is_llava=False, vocab_size=92544, vision={"image_size": 560}),
    "small_llava": Shape(
        title="small LLaVA",
        is_llava=True,
        vocab_size=700,
        text=SMALL_TEXT | {"num_key_value_heads": 4},
        vision=SMALL_VISION | {"image_size": 42},
    ),
    "small_ixc25": Shape(
        title="small InternLM-XC2.5",
        is_llava=False,
        vocab_size=700,
        text=SMALL_TEXT | {"num_key_value_heads": 2, "plora_rank": 4},
        vision=SMALL_VISION | {"image_size": 56},
    ),
}


def fresh_model(
    backbone: Backbone, device: torch.device, dtype: torch.dtype, *, four_bit: bool = False
) -> PreTrainedModel:
    """The model with weights that are drawn on `device` in `dtype`; four_bit: the decoder's frozen layers in 4 bits."""
    with _Drawn(device, dtype):
        model = backbone.build(weights=False, dtype=dtype)
    if four_bit:
        require_bitsandbytes()
        backbone.quantization = "4bit"
        _put_in_4_bits(backbone, model, device, dtype)
    return model


def fresh_stock_llava(backbone: LlavaBackbone, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights in transformers' model as it is, for sides that know nothing of ours."""
    with _Drawn(device, dtype):
        return LlavaForConditionalGeneration(copy.deepcopy(backbone.config)).to(dtype)


class _Drawn:
    """Inside, what is made lies on a device in a type, and is drawn from the seed of all benchmarks."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.manual_seed(SEED)
        torch.set_default_dtype(self.dtype)
        self.device.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.device.__exit__(*error)
        torch.set_default_dtype(self.before)


def _put_in_4_bits(backbone: Backbone, model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """As loading does it, from weights that are there."""
    # here, since they import bitsandbytes
    from lookright.backbones.four_bit import put_in_4_bits
    from lookright.backbones.ixc25.four_bit import quantise

    if isinstance(backbone, Ixc25Backbone):
        quantise(model, dtype)
        return
    decoder = backbone.language_model(model)
    linear = {id(part.weight) for part in decoder.modules() if isinstance(part, nn.Linear)}
    held = {name: value.data for name, value in model.named_parameters() if id(value) in linear}
    put = put_in_4_bits(model, decoder, dtype, device)
    for name in list(held):
        put(name, held.pop(name))
    keep_trainable(model)
