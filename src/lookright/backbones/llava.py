"""LLaVA-1.5 (arXiv 2310.03744) through transformers' own LlavaForConditionalGeneration, at any size."""

import copy
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP

from lookright.attention import PackedCall, lookright_attention, suffix_attention, use_lookright_attention
from lookright.backbones.base import Backbone
from lookright.backbones.bounded import bounded
from lookright.backbones.elementwise import SILU, gated_silu, rotate
from lookright.backbones.grid import GridMap
from lookright.backbones.llava_export import TOWER_FOLDER, LlavaExport
from lookright.backbones.llava_layouts import SpecialTokens, find_layout
from lookright.backbones.llava_original import OriginalLayout
from lookright.backbones.quantization import check_quantization, keep_trainable
from lookright.backbones.shards import SHARD_BYTES
from lookright.backbones.tokenizer import read_tokenizer, tokenizer_file
from lookright.common.pictures import as_rgb
from lookright.errors import ConfigError
from lookright.types import Size


class LlavaBackbone(Backbone):
    """A LLaVA-1.5 checkpoint in transformers' layout, or in that of its authors (`LlavaLlamaForCausalLM`).

    `path`: local folder or hub name. `image_aspect`: `pad` to a square with the mean colour, as LLaVA-1.5
    was trained, or `crop` the centre, which loses the borders of a wide collage. `system_prompt` opens
    every conversation. `max_length` in tokens, prompt and response together. `quantization`: `4bit` holds the
    language model's frozen layers in 4 bits under adapters; tower, projector and both embeddings stay as they are.
    `vision_tower`: folder or hub name of a CLIP, in place of the one that the authors' config.json names.
    """

    vision_prefix = "model.vision_tower."
    projector_prefix = "model.multi_modal_projector."
    export_layouts = ("stock", "original")

    def __init__(
        self,
        path: str | None,
        image_aspect: str = "pad",
        system_prompt: str = "",
        max_length: int = 4096,
        quantization: str | None = None,
        vision_tower: str | None = None,
    ) -> None:
        if image_aspect not in ("pad", "crop"):
            raise ConfigError(f"backbone.image_aspect={image_aspect!r} is unknown; valid: pad, crop")
        self.layout = find_layout(path, vision_tower)
        self.path = str(path)
        self.image_aspect = image_aspect
        self.system_prompt = system_prompt
        self.max_length = max_length
        self.quantization = check_quantization(quantization)
        self.config: LlavaConfig = self.layout.config
        self.processor = _image_processor(self.layout.processor_path, self.config, image_aspect)
        self.num_layers = self.config.text_config.num_hidden_layers
        special, eos = self.layout.special_tokens, self.layout.special_tokens.eos_token_id
        self.end_token_ids = eos if isinstance(eos, list) else [eos]
        self.pad_token_id = _pad_token_id(special, self.end_token_ids[0])
        self.bos_token_id = special.bos_token_id
        self.image_token_id = self.config.image_token_id
        self.text_tokenizer = read_tokenizer(tokenizer_file(self.path))

    def token_map(self, size: Size, num_pictures: int) -> GridMap:
        """Every picture costs the same tokens, whatever `size` and `num_pictures`."""
        del num_pictures
        side = self.config.vision_config.image_size
        cells = side // self.config.vision_config.patch_size
        reference = max(size) if self.image_aspect == "pad" else min(size)
        scale = side / reference
        offset_x, offset_y = ((side - extent * scale) / 2 for extent in size)
        return GridMap(side=side, cells=cells, scale=scale, offset_x=offset_x, offset_y=offset_y, size=size)

    def preprocess(self, image: Image.Image, num_pictures: int) -> Tensor:
        """float32[3, side, side]: a large picture made smaller, padded or cropped to a square, bicubic, normalised."""
        del num_pictures
        shown = image if image.mode == "RGB" else as_rgb(image)
        shown = bounded(shown, self.config.vision_config.image_size, self.image_aspect)
        return self.processor(shown, return_tensors="pt")["pixel_values"][0]

    def conversation_text(self, prompt: str, answer: str | None, first: bool = True) -> str:
        """`{system_prompt} USER: {prompt} ASSISTANT: {answer}`, as vicuna_v1 writes it.

        Behind the end token `USER:` follows without a space, with the ids of a stretch of its own, as the tokenizer
        has them with `legacy=true`. With `legacy=false` those of the authors' code change with the release of
        transformers.
        """
        opening = f"{self.system_prompt} " if self.system_prompt and first else ""
        closing = "" if answer is None else f" {answer}"
        return f"{opening}USER: {prompt} ASSISTANT:{closing}"

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text before the first end token; NUL, which a byte token can be and no record holds, becomes U+FFFD."""
        ids = list(token_ids)
        stop = next((i for i, token in enumerate(ids) if token in self.end_token_ids), len(ids))
        return self.text_tokenizer.decode(ids[:stop]).replace("\0", "\ufffd").strip()

    def build(self, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model, its decoder on our attention function; `weights=False` initialises it afresh."""
        if weights:
            model = self.layout.load(dtype, self.quantization)
            keep_trainable(model)
        else:
            model = LlavaForConditionalGeneration(copy.deepcopy(self.config)).to(dtype)
        decoder = self.language_model(model)
        use_lookright_attention(decoder)
        for layer in decoder.layers:
            layer.self_attn.forward = types.MethodType(_attention_forward, layer.self_attn)
            if layer.mlp.config.hidden_act in SILU:
                layer.mlp.forward = types.MethodType(_feed_forward, layer.mlp)
        decoder.layers[-1].forward = types.MethodType(_last_layer_forward, decoder.layers[-1])
        return model

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """The Llama stack."""
        return model.model.language_model

    def lora_targets(self) -> str:
        """All linear layers of the language model."""
        return r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"

    def encode_images(self, model: PreTrainedModel, pixels: Sequence[Tensor]) -> list[Tensor]:
        """float[num_tokens, D] for each picture; the tower runs once over all of them."""
        if not pixels:
            return []
        stacked = torch.stack(list(pixels)).to(model.dtype)
        return list(model.get_image_features(stacked, return_dict=True).pooler_output)

    def save_pretrained(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the layout that was loaded; transformers' own loads in its AutoProcessor and AutoModel classes."""
        self.layout.save(model, Path(folder), self.processor, self.system_prompt)

    @property
    def loaded_layout(self) -> str:
        """`stock` or `original`."""
        return "original" if isinstance(self.layout, OriginalLayout) else "stock"

    def export(
        self, model: PreTrainedModel, folder: Path, *, layout: str, home: Path, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """Write transformers' layout (`stock`) or the authors' (`original`), whichever was loaded."""
        written = LlavaExport(
            model=model,
            folder=folder,
            shard_bytes=shard_bytes,
            tokenizer_file=tokenizer_file(self.path),
            text_tokenizer=self.text_tokenizer,
            end_token_ids=self.end_token_ids,
            pad_token_id=self.pad_token_id,
            max_length=self.max_length,
        )
        if layout == "stock":
            written.write_stock(self.processor, self.system_prompt)
        elif isinstance(self.layout, OriginalLayout):
            self.layout.save(model, folder, self.processor, self.system_prompt, shard_bytes)
        else:
            written.write_original(self.processor, home, self.image_aspect)

    def reopened(self, folder: Path) -> "LlavaBackbone":
        """See `Backbone.reopened`; a tower that lies in the folder is taken from there."""
        tower = folder / TOWER_FOLDER
        return LlavaBackbone(
            path=str(folder),
            image_aspect=self.image_aspect,
            system_prompt=self.system_prompt,
            max_length=self.max_length,
            vision_tower=str(tower) if tower.is_dir() else None,
        )


def _image_processor(path: str, config: LlavaConfig, image_aspect: str) -> LlavaImageProcessorPil:
    """The folder's processor with the square made our way."""
    side = config.vision_config.image_size
    return LlavaImageProcessorPil.from_pretrained(
        path,
        do_pad=image_aspect == "pad",
        do_center_crop=image_aspect == "crop",
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )


def _pad_token_id(special: SpecialTokens, end: int) -> int:
    """The pad token, or the end token where there is none; ids are compared with None (0 is an id)."""
    return end if special.pad_token_id is None else special.pad_token_id


def _feed_forward(self: LlamaMLP, x: Tensor) -> Tensor:
    """The stock block, with gate and activation as one step: float[..., D] -> float[..., D]."""
    return self.down_proj(gated_silu(self.gate_proj(x), self.up_proj(x)))


def _attention_forward(
    self: LlamaAttention, hidden_states: Tensor, packed: PackedCall | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The stock block; in a packed pass with rotary positions as one step: float[1, T, D] -> float[1, T, D]."""
    if packed is None:
        return type(self).forward(self, hidden_states, **kwargs)
    cos, sin = (part[:, None] for part in kwargs["position_embeddings"])
    query, key, value = (_heads(self, project(hidden_states)) for project in (self.q_proj, self.k_proj, self.v_proj))
    dropout = self.attention_dropout if self.training else 0.0
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    output, _ = lookright_attention(self, query, key, value, None, self.scaling, dropout, packed)
    return self.o_proj(output.flatten(2)), None


def _last_layer_forward(
    self: LlamaDecoderLayer, hidden_states: Tensor, packed: PackedCall | None = None, **kwargs: Any
) -> Tensor:
    """The last decoder layer: in a packed pass it computes queries, output and MLP for suffix rows alone.

    float[1, T, D] -> float[1, sum S, D]; without `packed` it is the stock layer.
    """
    if packed is None:
        return type(self).forward(self, hidden_states, **kwargs)
    attention, rows = self.self_attn, packed.layout.suffix_index
    # keys and values of the whole row, queries of `rows`; the rotary tables [1, T, D] go over all heads alike
    normed = self.input_layernorm(hidden_states)
    cos, sin = (part[:, None] for part in kwargs["position_embeddings"])
    key = rotate(_heads(attention, attention.k_proj(normed)), cos, sin)
    query = rotate(_heads(attention, attention.q_proj(normed[:, rows])), cos[:, :, rows], sin[:, :, rows])
    value = _heads(attention, attention.v_proj(normed))
    output = suffix_attention(query, key, value, attention.scaling, attention.layer_idx, packed)
    hidden_states = hidden_states[:, rows] + attention.o_proj(output.flatten(2))
    return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def _heads(attention: LlamaAttention, states: Tensor) -> Tensor:
    """float[B, L, H D] -> float[B, H, L, D]."""
    return states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
