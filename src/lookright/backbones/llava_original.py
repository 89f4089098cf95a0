"""LLaVA-1.5 checkpoints in the layout of its authors: a LLaMA with a projector, and a CLIP folder as its tower."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    PreTrainedConfig,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lookright.backbones.folder import local_folder
from lookright.backbones.foreign import check_settings
from lookright.backbones.llava_stock import BUFFERS, TOKENIZER_FILES, copy_files
from lookright.backbones.quantization import loading_device, require_bitsandbytes
from lookright.backbones.shards import (
    SHARD_BYTES,
    WEIGHT_PATTERNS,
    assign,
    check_bare,
    dtype_name,
    fill,
    of_its_own,
    tensor_names,
    weight_files,
    write_json,
    write_shards,
)
from lookright.backbones.sizes import check_sizes, model_without_weights
from lookright.backbones.tensor_files import read_tensors
from lookright.backbones.tokenizer import read_tokenizer, tokenizer_file
from lookright.errors import ConfigError

SMALL_FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES]
TOWER_FILES = ("config.json", "preprocessor_config.json")
TOWER = "model.vision_tower."
OFFICIAL_TOWER = "model.vision_tower.vision_tower.vision_model."
CLIP_TOWER = "vision_model."
CLIP_REST = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""Parts of a whole CLIP that are no tower."""
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
"""Keys of the language model that have no default here."""
CHOICES = (
    "num_key_value_heads",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
)
"""Keys whose absence means what LLaMA's own configuration says."""
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu", "linear"),
    "mm_vision_select_feature": ("patch", "patch"),
    "mm_use_im_start_end": (False, False),
    "mm_use_im_patch_token": (False, False),
    "tie_word_embeddings": (False, False),
    "s2": (False, False),
}
"""The one value of LLaVA-1.5, and what an absent key means to the authors' code."""
UNKNOWN_PIECE = "<unk>"
"""Fills the rows of pictures, which their features replace: an id of the vocabulary that no text gives."""
# official start of a name, ours; whatever else starts with `model.` is the language model's
_STARTS = (
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    (OFFICIAL_TOWER, TOWER),
    ("model.", "model.language_model."),
)


def is_original(raw: dict[str, Any]) -> bool:
    """Whether a config.json is the authors': one level of keys, the tower by its name."""
    if raw.get("model_type") not in ("llava", "llava_llama"):
        return False
    return "mm_vision_tower" in raw or "LlavaLlamaForCausalLM" in (raw.get("architectures") or [])


def official_name(name: str) -> str:
    """Checkpoint name of one of our parameters."""
    for official, ours in _STARTS:
        if name.startswith(ours):
            return official + name.removeprefix(ours)
    return name


def parameter_name(name: str) -> str:
    """Our parameter for a checkpoint name, the inverse of `official_name`."""
    for official, ours in _STARTS:
        if name.startswith(official):
            return ours + name.removeprefix(official)
    return name


def convert_config(raw: dict[str, Any], tower: CLIPVisionConfig, fill_id: int, file: Path) -> LlavaConfig:
    """transformers' configuration of the authors' keys and the tower's sizes.

    Raises ConfigError that names every key of `file` which is missing or has a value that LLaVA-1.5 does not.
    """
    needed = (*SIZES, "mm_hidden_size", "mm_vision_select_layer")
    problems = [f"{key} is missing" for key in needed if raw.get(key) is None]
    for key, (supported, absent) in SUPPORTED.items():
        value = absent if raw.get(key) is None else raw[key]
        if value != supported:
            problems.append(f"{key}={value} is not supported; LLaVA-1.5 has {supported}")
    if str(raw.get("image_aspect_ratio")).startswith("anyres"):
        problems.append(f"image_aspect_ratio={raw['image_aspect_ratio']} is LLaVA-1.6's; LLaVA-1.5 has pad")
    if raw.get("mm_hidden_size") not in (None, tower.hidden_size):
        problems.append(f"mm_hidden_size={raw['mm_hidden_size']} but the tower's hidden_size is {tower.hidden_size}")
    if problems:
        raise ConfigError(f"{file} does not describe a LLaVA-1.5 checkpoint:\n  " + "\n  ".join(problems))
    try:
        text = LlamaConfig(**{key: raw[key] for key in (*SIZES, *CHOICES) if key in raw}, tie_word_embeddings=False)
    except StrictDataclassError as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    return LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=fill_id,
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=raw["mm_vision_select_layer"],
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


class OriginalLayout:
    """A folder or hub name in the authors' layout; `vision_tower` stands in for the tower that its config names."""

    def __init__(self, path: str, raw: dict[str, Any], vision_tower: str | None) -> None:
        self.path = path
        self.raw = {key: value for key, value in raw.items() if key != "_commit_hash"}  # a hub's, not the file's
        self.folder = local_folder(path, SMALL_FILES, "set backbone.path to a folder with the checkpoint")
        self.tower_key, self.tower_name = "backbone.vision_tower", vision_tower
        if vision_tower is None:
            self.tower_key, self.tower_name = f"mm_vision_tower of {path}", raw.get("mm_vision_tower")
        if not self.tower_name:
            raise ConfigError(f"{path} names no mm_vision_tower; set backbone.vision_tower to a CLIP folder")
        self.tower_folder = self._tower(list(TOWER_FILES))
        self.processor_path = str(self.tower_folder)
        unknown = read_tokenizer(tokenizer_file(self.folder)).piece_id(UNKNOWN_PIECE)
        fill_id = 0 if unknown is None else unknown
        self.config = convert_config(raw, self._tower_config(), fill_id, self.folder / "config.json")
        self.special_tokens = self.config.text_config
        self.config.name_or_path = path

    def load(self, dtype: torch.dtype, quantization: str | None) -> LlavaForConditionalGeneration:
        """Never holds more than the model and one tensor; layers in 4 bits are made so as they are read."""
        model, device = empty_model(self.config), torch.device("cpu")
        put = _put_plain(model, dtype)
        shapes = {official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
        if quantization is not None:
            require_bitsandbytes()
            # here, since it imports bitsandbytes
            from lookright.backbones.four_bit import put_in_4_bits

            device = loading_device()
            put = put_in_4_bits(model, model.model.language_model, dtype, device)
        folder = local_folder(
            self.path, SMALL_FILES + WEIGHT_PATTERNS, "set backbone.path to a folder with the weights"
        )
        if not self._holds_tower(folder):
            tower = {name: shapes.pop(name) for name in list(shapes) if name.startswith(OFFICIAL_TOWER)}
            self._fill_tower(tower, put)
        files = weight_files(folder)
        fill(files, shapes, lambda name, value: put(parameter_name(name), value), skip=_is_buffer).check(folder)
        model.config.dtype = dtype
        return model.to(device).eval()

    def save(
        self,
        model: LlavaForConditionalGeneration,
        folder: Path,
        processor: LlavaImageProcessorPil,
        system_prompt: str,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Write the authors' names and keys as they were found, the tokenizer's files, the tower by its name.

        The tower's weights are written where the checkpoint held them, or where they are no longer those that
        were read; `unfreeze_mm_vision_tower` then tells the authors' code to use them. The settings of pictures
        lie in the tower's folder, and no file of this layout has a system prompt.
        """
        del processor, system_prompt
        state = model.state_dict()
        check_bare(state)
        inside = self._holds_tower(self.folder)
        changed = not self._is_tower_as_read(state, inside)
        kept = {
            official_name(name): value
            for name, value in state.items()
            if inside or changed or not name.startswith(TOWER)
        }
        config = self.raw | {"torch_dtype": dtype_name(kept)}
        config.pop("dtype", None)
        if changed:
            config["unfreeze_mm_vision_tower"] = True
        copy_files(str(self.folder), folder, (*TOKENIZER_FILES, "generation_config.json"))
        write_shards(kept, folder, shard_bytes)
        write_json(folder / "config.json", config)

    def _tower(self, patterns: list[str]) -> Path:
        advice = "set backbone.vision_tower to a folder with a CLIP's config.json, preprocessor_config.json and weights"
        folder = local_folder(str(self.tower_name), patterns, advice, what=self.tower_key)
        for name in TOWER_FILES:
            if not (folder / name).is_file():
                raise ConfigError(f"{self.tower_key}={self.tower_name} holds no {name}; {advice}")
        return folder

    def _tower_config(self) -> CLIPVisionConfig:
        try:
            settings, _ = PreTrainedConfig.get_config_dict(self.tower_folder)
            check_settings(settings, f"{self.tower_key}={self.tower_name}")
            check_sizes(settings, f"{self.tower_key}={self.tower_name}")
            config = AutoConfig.from_pretrained(self.tower_folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.tower_key}={self.tower_name}: {str(error).splitlines()[0]}") from error
        config = config.vision_config if isinstance(config, CLIPConfig) else config
        if not isinstance(config, CLIPVisionConfig):
            raise ConfigError(f"{self.tower_key}={self.tower_name} holds a {config.model_type} model, not a CLIP one")
        return config

    def _holds_tower(self, folder: Path) -> bool:
        """Whether the checkpoint has weights of the tower; the names lie in its index, if it has one."""
        try:
            weight_files(folder)
        except ConfigError:
            return False  # a folder without weights
        return any(name.startswith(OFFICIAL_TOWER) for name in tensor_names(folder))

    def _fill_tower(self, shapes: dict[str, tuple[int, ...]], put: Callable[[str, Tensor], None]) -> None:
        folder = self._tower([*TOWER_FILES, *WEIGHT_PATTERNS])
        clip = {CLIP_TOWER + name.removeprefix(OFFICIAL_TOWER): shape for name, shape in shapes.items()}
        filling = fill(
            weight_files(folder, self.tower_key),
            clip,
            lambda name, value: put(TOWER + name.removeprefix(CLIP_TOWER), value),
            skip=_is_no_tower,
            rename=_clip_name,
        )
        filling.check(folder)

    def _is_tower_as_read(self, state: dict[str, Tensor], inside: bool) -> bool:
        """Whether every weight of the tower is that of its files, which are read again one tensor at a time."""
        folder = self.folder if inside else self.tower_folder
        try:
            files = weight_files(folder, self.tower_key)
        except ConfigError:
            return False  # the model was made without them
        skip = _is_outside if inside else _is_no_tower
        for file in files:
            for name, tensor in read_tensors(file, skip):
                if tensor is None:
                    continue
                ours = parameter_name(name) if inside else TOWER + _clip_name(name).removeprefix(CLIP_TOWER)
                held = state.get(ours)
                if held is None or held.shape != tensor.shape or not torch.equal(held.cpu(), tensor.to(held.dtype)):
                    return False
        return True


def empty_model(config: LlavaConfig) -> LlavaForConditionalGeneration:
    """The model with its parameters on the meta device and its buffers, which no checkpoint holds, real."""
    model = model_without_weights(LlavaForConditionalGeneration, config, config.name_or_path)
    decoder, embeddings = model.model.language_model, model.model.vision_tower.embeddings
    decoder.rotary_emb = LlamaRotaryEmbedding(decoder.config)
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    unexpected = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not unexpected, f"buffers that no checkpoint holds: {unexpected}"
    return model


def _put_plain(model: nn.Module, dtype: torch.dtype) -> Callable[[str, Tensor], None]:
    return lambda name, tensor: assign(model, name, of_its_own(tensor, dtype))


def _is_buffer(name: str) -> bool:
    return BUFFERS.fullmatch(name) is not None


def _is_outside(name: str) -> bool:
    return not name.startswith(OFFICIAL_TOWER) or _is_buffer(name)


def _is_no_tower(name: str) -> bool:
    return name.startswith(CLIP_REST) or name.endswith("embeddings.position_ids")


def _clip_name(name: str) -> str:
    """A tower saved by itself may lack the level `vision_model`."""
    return name if name.startswith(CLIP_TOWER) else CLIP_TOWER + name
