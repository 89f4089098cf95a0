"""LLaVA checkpoints in transformers' layout, with the key names of any release since 4.36."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil
from transformers.utils import cached_file

from lookright.backbones.folder import readable
from lookright.backbones.quantization import loading_arguments
from lookright.backbones.shards import (
    SHARD_BYTES,
    Filling,
    check_bare,
    check_local_files,
    weight_files,
    write_json,
)
from lookright.backbones.sizes import check_held, model_without_weights
from lookright.backbones.stock_tokenizer import forget_last_use
from lookright.backbones.tensor_files import check_numbers, read_tensors
from lookright.errors import ConfigError
from lookright.types import IMAGE_PLACEHOLDER

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
BUFFERS = re.compile(r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)")
"""What old releases saved beside the weights; it follows from the sizes."""
UNQUANTISED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
# turns as `encode_prompt` writes them; text is taken as it is, `<image>` and `</s>` in it too
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
  {%- if content is string -%}{{- content -}}{%- else -%}
    {%- for part in content -%}
      {%- if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set system = SYSTEM_PROMPT -%}
{%- if messages[0]['role'] == 'system' -%}{%- set system = text(messages[0]['content']) -%}{%- endif -%}
{%- if system -%}{{- system + ' ' -}}{%- endif -%}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}{{- 'USER: ' + text(message['content']) + ' ' -}}
  {%- elif message['role'] == 'assistant' -%}{{- 'ASSISTANT: ' + text(message['content']) + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


class StockLayout:
    """A folder or hub name as transformers' LlavaForConditionalGeneration reads it."""

    def __init__(self, path: str, raw: dict[str, Any]) -> None:
        self.path = self.processor_path = path
        if raw.get("model_type") != "llava":
            raise ConfigError(f"backbone.path={path} holds a {raw.get('model_type')} model, not a LLaVA one")
        with readable(path):
            self.config: LlavaConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
        strategy = self.config.vision_feature_select_strategy
        if strategy != "default":
            raise ConfigError(
                f"{path}: vision_feature_select_strategy={strategy} is not LLaVA-1.5's; only default is supported, "
                "which drops the tower's class token"
            )
        with readable(path):
            self.special_tokens = AutoTokenizer.from_pretrained(path, trust_remote_code=False)

    def load(self, dtype: torch.dtype, quantization: str | None) -> LlavaForConditionalGeneration:
        """Through transformers, with every tensor in place or a ConfigError that names it."""
        loading = loading_arguments(quantization, dtype, UNQUANTISED)
        check_local_files(Path(self.path))
        check_held(model_without_weights(LlavaForConditionalGeneration, self.config, self.path), self.path)
        try:
            model, info = LlavaForConditionalGeneration.from_pretrained(
                self.path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **loading
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"backbone.path={self.path}: {str(error).splitlines()[0]}") from error
        unknown = [name for name in sorted(info["unexpected_keys"]) if not BUFFERS.fullmatch(name)]
        misfits = [
            f"{name} is {tuple(one)}, config.json asks for {tuple(two)}"
            for name, one, two in sorted(info["mismatched_keys"])
        ]
        misfits += [f"{name} is unknown" for name in unknown]
        misfits += [f"{name} is missing" for name in sorted(info["missing_keys"])]
        Filling(problems=misfits).check(Path(self.path))
        if quantization is None:
            for name, parameter in model.named_parameters():
                check_numbers(parameter.detach(), name, f"backbone.path={self.path}")
        else:
            self._check_file_numbers()
        return model

    def _check_file_numbers(self) -> None:
        """Raise ConfigError for values that are no numbers in the files, since 4 bits turn each into some number."""
        config = cached_file(self.path, "config.json")
        assert config is not None, "the model was loaded by it"
        for file in weight_files(Path(config).parent):
            for name, tensor in read_tensors(file, skip=lambda name: bool(BUFFERS.fullmatch(name))):
                if tensor is not None:
                    check_numbers(tensor, name, file)

    def save(
        self,
        model: LlavaForConditionalGeneration,
        folder: Path,
        processor: LlavaImageProcessorPil,
        system_prompt: str,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Write what stock AutoProcessor and AutoModelForImageTextToText load.

        The tokenizer's files are copied: written by transformers anew, they may tokenise otherwise. With
        torchvision installed the stock image processor resizes by it, pixels apart by rounding, unless it is
        asked for `backend="pil"`.
        """
        check_bare(model.state_dict())
        model.save_pretrained(folder, max_shard_size=shard_bytes)
        copy_files(self.path, folder, TOKENIZER_FILES)
        forget_last_use(folder)
        write_processor(self.config, folder, processor, system_prompt)


def write_processor(config: LlavaConfig, folder: Path, processor: LlavaImageProcessorPil, system_prompt: str) -> None:
    """Write the settings of pictures, of the processor around them, and the chat template."""
    processor.save_pretrained(folder)
    settings = {
        "image_processor": json.loads(processor.to_json_string()),
        "image_token": IMAGE_PLACEHOLDER,
        "num_additional_image_tokens": 1,  # the tower's class token, which the strategy `default` drops again
        "patch_size": config.vision_config.patch_size,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    write_json(folder / "processor_config.json", settings)
    template = CHAT_TEMPLATE.replace("SYSTEM_PROMPT", json.dumps(system_prompt, ensure_ascii=False))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def copy_files(path: str, folder: Path, names: tuple[str, ...]) -> None:
    """Copy those files of a folder or hub name that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if found is not None and Path(found).resolve() != (folder / name).resolve():
            shutil.copyfile(found, folder / name)
