"""InternLM-XComposer2.5 (arXiv 2407.03320) as a backbone, at any size."""

import copy
import json
import shutil
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from lookright.attention import PackedCall, suffix_attention, use_lookright_attention
from lookright.backbones.base import Backbone
from lookright.backbones.folder import check_folder, check_json, local_folder, readable
from lookright.backbones.ixc25.checkpoint import copy_task_loras, load_checkpoint, save_checkpoint
from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.decoder import Ixc25DecoderLayer
from lookright.backbones.ixc25.image_transform import (
    VARIANTS,
    TilePlan,
    plan_tiles,
    tile_budget,
    transform_picture,
)
from lookright.backbones.ixc25.modeling import Ixc25ForCausalLM
from lookright.backbones.ixc25.token_map import TileMap
from lookright.backbones.ixc25.tokenizer import END_OF_TURN, START_OF_TURN, copy_tokenizer, load_tokenizer
from lookright.backbones.quantization import check_quantization, require_bitsandbytes
from lookright.backbones.shards import SHARD_BYTES, WEIGHT_PATTERNS, write_json
from lookright.backbones.sizes import check_sizes
from lookright.errors import ConfigError
from lookright.types import Size

SMALL_FILES = ["config.json", "tokenizer.model", "tokenizer.json"]
OFFICIAL_FILES = (
    "*.py",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""What the official code reads beside config and weights, and the code itself."""
ADVICE = "set backbone.path to a folder with the official files"
TURN_OPENING = f"{START_OF_TURN}user\n"
TURN_CLOSING = f"{END_OF_TURN}\n{START_OF_TURN}assistant\n"


class Ixc25Backbone(Backbone):
    """An InternLM-XC2.5 folder in the official layout (config, weights, tokenizer).

    `path`: local folder or hub name. `image_transform`: `inference`, `finetune` or `evaluation`, the three
    published ways to tile a picture. `hd_num`: most tiles of a picture, None for the variant's own rule.
    `max_length` in tokens, prompt and response together. `quantization`: `4bit` holds the decoder's linear layers
    in 4 bits under adapters; partial LoRA, ViT, projector and both embeddings stay as they are.
    """

    vision_prefix = "vit."
    projector_prefix = "vision_proj."
    export_layouts = ("official",)

    def __init__(
        self,
        path: str | None,
        image_transform: str = "inference",
        hd_num: int | None = None,
        max_length: int = 4096,
        quantization: str | None = None,
    ) -> None:
        if image_transform not in VARIANTS:
            raise ConfigError(f"backbone.image_transform={image_transform!r} is unknown; valid: {', '.join(VARIANTS)}")
        if hd_num is not None and hd_num < 1:
            raise ConfigError(f"backbone.hd_num={hd_num} leaves no tile; set 1 or more, or null for the default")
        check_folder(path)
        self.path = str(path)
        self.image_transform = image_transform
        self.hd_num = hd_num
        self.max_length = max_length
        self.quantization = check_quantization(quantization)
        self.folder = local_folder(self.path, SMALL_FILES, ADVICE)
        check_sizes(check_json(self.folder / "config.json"), f"backbone.path={self.path}")
        with readable(self.path):
            self.config = Ixc25Config.from_pretrained(self.folder)
        self.text_tokenizer = load_tokenizer(self.folder, self.config.vocab_size)
        self.num_layers = self.config.num_hidden_layers
        eos = self.config.eos_token_id
        self.end_token_ids = [self.text_tokenizer.piece_id(END_OF_TURN), *(eos if isinstance(eos, list) else [eos])]
        self.pad_token_id = self.config.pad_token_id
        self.bos_token_id = self.config.bos_token_id
        self.image_token_id = self.config.image_token_id

    def tile_plan(self, size: Size, num_pictures: int) -> TilePlan:
        """Tiles of one picture of `size`; raises RecordError (reason `picture_shape`) for an extreme strip."""
        budget = tile_budget(self.image_transform, num_pictures) if self.hd_num is None else self.hd_num
        return plan_tiles(size, self.image_transform, budget, self.config.tile_size)

    def token_map(self, size: Size, num_pictures: int) -> TileMap:
        """Overview, separators and tiles of one picture; a prompt with several pictures has fewer tiles each."""
        return TileMap(plan=self.tile_plan(size, num_pictures), side=self.config.token_side)

    def preprocess(self, image: Image.Image, num_pictures: int) -> Tensor:
        """float32[3, tiles_down * tile, tiles_across * tile], normalised, padded with white."""
        return transform_picture(image, self.tile_plan(image.size, num_pictures))

    def conversation_text(self, prompt: str, answer: str | None, first: bool = True) -> str:
        """The user's turn and the assistant's, whose text is stripped as the official training strips it."""
        opening = TURN_OPENING if first else f"\n{TURN_OPENING}"
        return f"{opening}{prompt}{TURN_CLOSING}{'' if answer is None else answer.strip()}"

    def _encode_behind_end(self, text: str) -> list[int]:
        """The official code has both turns in one text, where no dummy prefix comes behind the end token."""
        ids = self.text_tokenizer.encode(f"{END_OF_TURN}{text}")
        return ids[ids.index(self.end_token_ids[0]) + 1 :]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text before the first end token; NUL, which a byte token can be and no record holds, becomes U+FFFD."""
        ids = [int(token) for token in token_ids]
        stop = next((i for i, token in enumerate(ids) if token in self.end_token_ids), len(ids))
        return self.text_tokenizer.decode(ids[:stop]).replace("\0", "\ufffd").strip()

    def build(self, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model, its decoder on our attention function; `weights=False` initialises it afresh."""
        config = copy.deepcopy(self.config)  # a model writes its dtype and its attention function there
        if weights:
            if self.quantization is not None:
                require_bitsandbytes()
            model = load_checkpoint(local_folder(self.path, SMALL_FILES + WEIGHT_PATTERNS, ADVICE), config, dtype)
            if self.quantization is not None:
                # here, since it imports bitsandbytes
                from lookright.backbones.ixc25.four_bit import quantise

                quantise(model, dtype)
        else:
            model = Ixc25ForCausalLM(config).to(dtype)
        model.generation_config.eos_token_id = list(self.end_token_ids)
        decoder = self.language_model(model)
        use_lookright_attention(decoder)
        decoder.layers[-1].forward = types.MethodType(_last_layer_forward, decoder.layers[-1])
        return model

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """The InternLM2 stack."""
        return model.model

    def lora_targets(self) -> str:
        """The five linear layers of every decoder layer, not the partial LoRA inside them."""
        return r".*model\.layers\.\d+\.(attention\.(wqkv|wo)|feed_forward\.w[123])"

    def encode_images(self, model: PreTrainedModel, pixels: Sequence[Tensor]) -> list[Tensor]:
        """float[N_i, C] for each picture; the ViT runs over the tiles of all of them together."""
        return model.encode_pictures(pixels)

    def decoder_kwargs(self, image_mask: Tensor) -> dict[str, Tensor]:
        """The mask of the partial LoRA, separators included."""
        return {"im_mask": image_mask}

    def save_pretrained(self, model: PreTrainedModel, folder: Path) -> None:
        """Write weights and configuration in the official layout, and the tokenizer."""
        save_checkpoint(model, Path(folder))
        copy_tokenizer(self.folder, Path(folder))

    def export(
        self, model: PreTrainedModel, folder: Path, *, layout: str, home: Path, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """Write the official folder: what was found in it, the official code and task LoRAs too, with these weights."""
        del layout, home
        save_checkpoint(model, folder, shard_bytes)
        source = local_folder(self.path, [*SMALL_FILES, *WEIGHT_PATTERNS, *OFFICIAL_FILES], ADVICE)
        copy_task_loras(source, folder)
        found = json.loads((source / "config.json").read_text(encoding="utf-8"))
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # what names the official code, `auto_map`, is none of ours
        write_json(folder / "config.json", {key: found[key] for key in found if key != "_name_or_path"} | written)
        for file in (file for pattern in OFFICIAL_FILES for file in sorted(source.glob(pattern))):
            shutil.copyfile(file, folder / file.name)

    def reopened(self, folder: Path) -> "Ixc25Backbone":
        """See `Backbone.reopened`."""
        return Ixc25Backbone(str(folder), self.image_transform, self.hd_num, self.max_length)


def _last_layer_forward(
    self: Ixc25DecoderLayer, hidden_states: Tensor, packed: PackedCall | None = None, **kwargs: Any
) -> Tensor:
    """The last decoder layer: in a packed pass it computes queries, output and MLP for suffix rows alone.

    float[1, T, C] -> float[1, sum S, C]; without `packed` it is the layer's own forward.
    """
    if packed is None:
        return type(self).forward(self, hidden_states, **kwargs)
    attention, rows, image_rows = self.attention, packed.layout.suffix_index, kwargs["image_rows"]
    normed = self.attention_norm(hidden_states)
    query, key, value = attention.query_key_value(normed, kwargs["position_embeddings"], image_rows)
    output = suffix_attention(query[:, :, rows], key, value, attention.scaling, attention.layer_idx, packed)
    # where image rows, which count through the whole row, come to lie among the rows that are kept
    kept = None if image_rows is None else torch.isin(rows, image_rows).nonzero().squeeze(-1)
    hidden_states = hidden_states[:, rows] + attention.wo(output.flatten(2), image_rows=kept)
    return hidden_states + self.feed_forward(self.ffn_norm(hidden_states), image_rows=kept)
