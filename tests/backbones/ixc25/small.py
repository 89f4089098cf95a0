"""Sizes, texts and weights of the small XComposer2.5."""

from pathlib import Path

import torch
from torch import nn

from lookright.backbones.ixc25 import Ixc25Backbone
from recipes.tiny.ixc25_folder import write_ixc25_folder

TEXTS = [
    "user assistant Image1: In Image2, what color is the shape? red blue green circle yes no",
    "Regarding the central picture, is there a square here? Image1 ; Which?",
]
TEXT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "plora_rank": 4,
    "plora_alpha": 8.0,
}
VISION_SIZES = {
    "image_size": 84,
    "patch_size": 14,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def randomise(model: nn.Module, seed: int) -> None:
    """Weights of a size that makes every part matter; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(noise * scale + (parameter.ndim == 1))


def write_small(folder: Path) -> Path:
    """Configuration, tokenizer and random weights in the official layout."""
    write_ixc25_folder(folder, TEXTS, vocab_size=340, text=TEXT_SIZES, vision=VISION_SIZES)
    backbone = Ixc25Backbone(path=str(folder))
    model = backbone.build(weights=False)
    randomise(model, seed=1)
    backbone.save_pretrained(model, folder)
    return folder
