"""The two published layouts of LLaVA-1.5 checkpoints, and which of them a folder has."""

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil, PreTrainedConfig

from lookright.backbones.folder import check_folder, check_json
from lookright.backbones.foreign import check_settings
from lookright.backbones.llava_original import OriginalLayout, is_original
from lookright.backbones.llava_stock import StockLayout
from lookright.backbones.shards import SHARD_BYTES
from lookright.backbones.sizes import check_sizes
from lookright.errors import ConfigError


class SpecialTokens(Protocol):
    """What knows the ids of the tokens around a conversation: a tokenizer of transformers, or a configuration."""

    bos_token_id: int | None
    eos_token_id: int | list[int]
    pad_token_id: int | None


class CheckpointLayout(Protocol):
    """Where the parts of a LLaVA lie, and how it is loaded and saved back."""

    config: LlavaConfig
    """All sizes, as transformers names them; `image_token_id` fills the rows of pictures in token ids."""
    special_tokens: SpecialTokens
    processor_path: str
    """Folder or hub name of the image processor's settings."""

    def load(self, dtype: torch.dtype, quantization: str | None) -> LlavaForConditionalGeneration:
        """The model with its weights, in evaluation mode; raises ConfigError naming what does not fit."""

    def save(
        self,
        model: LlavaForConditionalGeneration,
        folder: Path,
        processor: LlavaImageProcessorPil,
        system_prompt: str,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Write the layout that was loaded."""


def find_layout(path: str | None, vision_tower: str | None) -> CheckpointLayout:
    """The layout of a folder or hub name, by its config.json. Raises ConfigError where it is no LLaVA-1.5."""
    path = check_folder(path)
    raw = _config_of(path)
    check_settings(raw, f"backbone.path={path}")
    check_sizes(raw, f"backbone.path={path}")
    if is_original(raw):
        return OriginalLayout(path, raw, vision_tower)
    if vision_tower is not None:
        raise ConfigError(
            f"backbone.vision_tower={vision_tower} is of no use: backbone.path={path} is in transformers' layout, "
            "which holds its tower; set backbone.vision_tower=null"
        )
    return StockLayout(path, raw)


def _config_of(path: str) -> dict[str, Any]:
    if Path(path).is_dir():
        check_json(Path(path) / "config.json")
    try:
        return PreTrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"backbone.path={path}: its config.json cannot be read ({str(error).splitlines()[0]}); "
            "set backbone.path to a local folder with a LLaVA-1.5 checkpoint, or a hub name within reach"
        ) from error
