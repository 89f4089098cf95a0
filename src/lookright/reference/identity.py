"""What log-probabilities depend on beside the data, each part under the name that a message shows."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.backbones.adapters import PeftModel
from lookright.backbones.base import Backbone
from lookright.types import IMAGE_PLACEHOLDER

METHOD = "packed rows 1"
"""Raised when packing, attention or log-softmax change what comes out by more than rounding."""
NO_ADAPTER = "none"
LIBRARIES = ("torch", "transformers", "peft", "pillow", "tokenizers")
# names and defaults that a library writes into a configuration and that no number depends on
_NOT_NUMBERS = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "use_cache")
_PROBE_TEXT = f"Image1: {IMAGE_PLACEHOLDER}\nIn Image1, what colour is the 1st of 23 circles? Répondez: «no», 7."


def fingerprint(components: Mapping[str, str]) -> bytes:
    """All components as 16 bytes."""
    return hashlib.sha256(json.dumps(dict(components), sort_keys=True).encode()).digest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of what computes; numbers of another version are compared, not refused."""
    return {name: version(name) for name in LIBRARIES}


def describe_components(backbone: Backbone, model: PreTrainedModel, adapter: str, precision: str) -> dict[str, str]:
    """Name to short text for a bare `model` with its `adapter` identity and Lightning's `precision` name."""
    state = {name: value for name, value in model.state_dict().items() if not _is_adapter(name)}
    return {
        "model weights": hash_tensors({name.replace(".base_layer.", "."): value for name, value in state.items()}),
        "model configuration": _short(json.dumps(_numbers_only(model.config.to_dict()), sort_keys=True, default=str)),
        "adapter": adapter,
        "type of the weights (trainer.model_dtype)": str(model.dtype).removeprefix("torch."),
        "precision (trainer.precision)": f"{precision}, matmul {torch.get_float32_matmul_precision()}",
        "prompt template and tokenizer": _prompt_identity(backbone),
        "image processor": _processor_identity(backbone),
        "way of computing": METHOD,
    }


def adapter_identity(policy: nn.Module) -> str:
    """`none` for a model without adapter or with one that is still without effect, else a hash of its content."""
    if not isinstance(policy, PeftModel):
        return NO_ADAPTER
    tensors = {name: value for name, value in policy.get_base_model().state_dict().items() if _is_adapter(name)}
    if not any(value.any() for name, value in tensors.items() if ".lora_B." in name or ".lora_embedding_B." in name):
        return NO_ADAPTER
    options = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    config = {name: getattr(policy.active_peft_config, name) for name in options}
    return _short(json.dumps(config, sort_keys=True) + hash_tensors(tensors))


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and every byte, 32 hexadecimal digits; independent of order."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = pool.map(_hash_tensor, sorted(tensors), (tensors[name] for name in sorted(tensors)))
        return _short("".join(parts))


def _hash_tensor(name: str, tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _numbers_only(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _numbers_only(value) for key, value in config.items() if key not in _NOT_NUMBERS}
    return config


def _prompt_identity(backbone: Backbone) -> str:
    """What the template and the tokenizer make of a fixed text. Other texts are looked after by their own keys."""
    answer = _PROBE_TEXT.replace(IMAGE_PLACEHOLDER, "")
    prompt, (response,) = backbone.encode_conversation(_PROBE_TEXT, [answer], [_probe_picture().size])
    return hash_tensors({"prompt": prompt.input_ids, "response": response})


def _processor_identity(backbone: Backbone) -> str:
    """What the processor makes of a fixed picture, alone and among three."""
    return hash_tensors({str(count): backbone.preprocess(_probe_picture(), count) for count in (1, 3)})


def _probe_picture() -> Image.Image:
    """Wider than high, and without any symmetry."""
    width, height = 96, 64
    places = ((x, y, channel) for y in range(height) for x in range(width) for channel in range(3))
    return Image.frombytes("RGB", (width, height), bytes((5 * x + 3 * y * c + 40 * c) % 256 for x, y, c in places))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
