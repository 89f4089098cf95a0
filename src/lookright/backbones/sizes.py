"""Sizes that a config.json tells are held against bounds, and against the weights beside it, before any is made."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lookright.backbones.folder import readable
from lookright.backbones.shards import INDEX_FILES, SINGLE_FILES, weight_files
from lookright.common.strict_json import short
from lookright.errors import ConfigError

LARGEST = {
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10,
    "head_dim": 2**12,
    "vocab_size": 2**21,
    "max_position_embeddings": 2**31,
    "image_size": 2**12,
    "patch_size": 2**10,
    "num_channels": 2**4,
    "projection_dim": 2**16,
    "plora_rank": 2**14,
}
"""At least seven times what the published models of both families have: a size beyond is damage, and would be
allocated, or looped over for hours."""
OPTIONAL = ("num_key_value_heads", "head_dim")
"""Null means what follows from the others."""
Config = TypeVar("Config")
Model = TypeVar("Model", bound=nn.Module)


def check_sizes(settings: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError naming every size in a model's config.json, at any depth, that is no whole number in bounds."""
    problems = [
        f"{place}={short(value)}; valid: whole numbers from 1 to {LARGEST[name]:,}"
        for place, name, value in _sizes(settings)
        if not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST[name])
        and not (value is None and name in OPTIONAL)
    ]
    if problems:
        raise ConfigError("\n".join(f"{where}: config.json says {problem}; fetch it again" for problem in problems))


def model_without_weights(make: Callable[[Config], Model], config: Config, path: str | Path) -> Model:
    """The model of a config with parameters and buffers on the meta device, which take no memory.

    Raises ConfigError naming `path` for a config that no model can be made of.
    """
    with readable(path, "its config.json"), torch.device("meta"):
        return make(copy.deepcopy(config))


def check_held(model: nn.Module, path: str) -> None:
    """Raise ConfigError where local weights at `path` have fewer bytes than `model` has parameters.

    transformers allocates what is missing before it tells; a hub's name has no weights here yet.
    """
    folder = Path(path)
    if not any((folder / name).is_file() for name in (*INDEX_FILES, *SINGLE_FILES)):
        return
    held = sum(file.stat().st_size for file in weight_files(folder))
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > held:
        raise ConfigError(
            f"{path}: config.json describes a model of {asked:,} parameters, and the weights beside it have {held:,} "
            "bytes: they are of another model; fetch both again"
        )


def _sizes(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted place, name and value of all sizes."""
    for name, value in settings.items():
        if name in LARGEST:
            yield f"{place}{name}", name, value
        elif isinstance(value, Mapping):
            yield from _sizes(value, f"{place}{name}.")
