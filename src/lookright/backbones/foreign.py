"""Weights that others made bring settings, and settings may name code: what is told here is refused.

What follows them is data: tensors through safetensors or `weights_only=True`, json, Jinja in a sandbox.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lookright.common.strict_json import read_object
from lookright.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_KIND = "LORA"
_KERNELS = "attn_implementation"


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError where a model's `config.json` asks for attention from a hub: transformers would fetch it.

    Other code that it may name, `auto_map`, is never called.
    """
    for key, value in _of_kernels(settings):
        raise ConfigError(
            f"{where}: config.json holds {key}={value!r}, which names code on a hub; remove that key from the file"
        )


def check_adapter_settings(adapter: str, key: str = "adapter") -> dict[str, Any]:
    """Return the settings of an adapter; ConfigError for one that is not LoRA, or whose settings name a module.

    Other kinds fetch tokenizers and further adapters that their settings name.
    """
    settings = read_object(
        Path(adapter) / ADAPTER_CONFIG, f"set {key} to the adapter/ folder of a run, or fetch it again"
    )
    kind = settings.get("peft_type")
    if kind != ADAPTER_KIND:
        raise ConfigError(
            f"{key}={adapter}: {ADAPTER_CONFIG} says peft_type={kind!r}; valid: {ADAPTER_KIND}, which train.py writes"
        )
    if settings.get("megatron_config") is not None:
        raise ConfigError(
            f"{key}={adapter}: {ADAPTER_CONFIG} sets megatron_config, with which PEFT imports the module "
            f"{settings.get('megatron_core')!r}; set it to null"
        )
    return settings


def _of_kernels(settings: Any) -> Iterator[tuple[str, str]]:
    """Keys and values at any depth that name an attention by a repository."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            names = value.values() if isinstance(value, Mapping) else (value,)
            if str(key).lstrip("_").startswith(_KERNELS):
                yield from ((str(key), name) for name in names if isinstance(name, str) and "/" in name)
            yield from _of_kernels(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _of_kernels(value)
