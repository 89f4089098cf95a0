"""A backbone as somebody outside the package writes it: transformers' own Qwen2 with a patch embedding for eyes.

Nothing of the decoder is touched: it returns whole rows.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from lookright.attention import use_lookright_attention
from lookright.backbones.base import Backbone
from lookright.backbones.grid import GridMap
from lookright.backbones.tokenizer import read_tokenizer
from lookright.types import Size


class QwenWithEyes(Qwen2ForCausalLM):
    """One token a patch, one linear layer up to the decoder's width."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.eyes = nn.Conv2d(3, 24, config.patch_size, stride=config.patch_size)
        self.bridge = nn.Linear(24, config.hidden_size)
        self.post_init()


class QwenBackbone(Backbone):
    """Pictures are made smaller to fit the upper left of a square."""

    vision_prefix = "eyes."
    projector_prefix = "bridge."

    def __init__(self, path: str, max_length: int = 512) -> None:
        self.path, self.max_length = Path(path), max_length
        self.settings = Qwen2Config.from_pretrained(path)
        self.num_layers = self.settings.num_hidden_layers
        self.text_tokenizer = read_tokenizer(self.path / "tokenizer.json")
        self.bos_token_id = None
        self.end_token_ids = [self.settings.eos_token_id]
        self.pad_token_id = self.settings.pad_token_id
        self.image_token_id = self.settings.image_token_id

    def token_map(self, size: Size, num_pictures: int) -> GridMap:
        del num_pictures
        side, cells = self.settings.image_size, self.settings.image_size // self.settings.patch_size
        return GridMap(side=side, cells=cells, scale=side / max(size), offset_x=0.0, offset_y=0.0, size=size)

    def preprocess(self, image: Image.Image, num_pictures: int) -> Tensor:
        del num_pictures
        side = self.settings.image_size
        small = image.convert("RGB").resize([max(1, round(extent * side / max(image.size))) for extent in image.size])
        canvas = Image.new("RGB", (side, side))
        canvas.paste(small)
        return (
            torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1) / 128
        )

    def conversation_text(self, prompt: str, answer: str | None, first: bool = True) -> str:
        opening = "" if first else "\n"
        return f"{opening}Q: {prompt}\nA:{'' if answer is None else ' ' + answer}"

    def decode(self, token_ids: Sequence[int]) -> str:
        ids = [*token_ids, self.end_token_ids[0]]
        return self.text_tokenizer.decode(ids[: ids.index(self.end_token_ids[0])]).strip()

    def build(self, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        fresh = QwenWithEyes(Qwen2Config.from_pretrained(self.path)).to(dtype)
        model = QwenWithEyes.from_pretrained(self.path, dtype=dtype) if weights else fresh
        use_lookright_attention(self.language_model(model))
        return model

    def language_model(self, model: nn.Module) -> nn.Module:
        return model.model

    def lora_targets(self) -> str:
        return r".*model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"

    def encode_images(self, model: nn.Module, pixels: Sequence[Tensor]) -> list[Tensor]:
        if not pixels:
            return []
        patches = model.eyes(torch.stack(list(pixels)).to(model.dtype))
        return list(model.bridge(patches.flatten(2).transpose(1, 2)))

    def save_pretrained(self, model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        shutil.copy(self.path / "tokenizer.json", folder)
