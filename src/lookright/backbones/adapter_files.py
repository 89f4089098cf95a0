"""The folder of a saved adapter, checked before anything of it is put into a model, and before weights load."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lookright.backbones.foreign import ADAPTER_CONFIG, check_adapter_settings
from lookright.backbones.tensor_files import check_numbers, read_tensors
from lookright.common.strict_json import read_object, short
from lookright.errors import ConfigError

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The first that is there is read."""
RANKED = ".lora_A.weight"


def check_adapter(adapter: str | None, key: str = "adapter") -> None:
    """Raise ConfigError where an adapter folder is none, is damaged, or holds values that are no numbers."""
    if adapter is None:
        return
    if not (Path(adapter) / ADAPTER_CONFIG).is_file():
        raise ConfigError(f"{key}={adapter} holds no {ADAPTER_CONFIG}; set {key} to the adapter/ folder of a run")
    config, ranks = check_adapter_settings(adapter, key), set()
    file = _weights(Path(adapter), key)
    for name, tensor in _tensors(file):
        check_numbers(tensor, name, f"{key}={file}")
        if name.endswith(RANKED):
            ranks.add(tensor.shape[0])
    # ZeRO-3 leaves empty tensors, which are told where they matter
    if 0 not in ranks:
        _check_ranks(Path(adapter) / ADAPTER_CONFIG, config, ranks)


def adapter_names(adapter: str, key: str = "adapter") -> set[str]:
    """Names of the tensors of an adapter. Raises ConfigError as `check_adapter` does for its file."""
    return {name for name, _ in read_tensors(_weights(Path(adapter), key), skip=lambda _: True)}


def base_of(adapter: str) -> str:
    """The model that an adapter says it was trained on."""
    return short(read_object(Path(adapter) / ADAPTER_CONFIG, "fetch it again").get("base_model_name_or_path"))


def _weights(folder: Path, key: str) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise ConfigError(
        f"{key}={folder} holds no {WEIGHTS[0]}, the weights of the adapter; copy it there, or set {key} to the "
        "adapter/ folder of a run that ended"
    )


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_tensors(file, skip=lambda _: False):
        assert tensor is not None, "nothing is skipped"
        yield name, tensor


def _check_ranks(file: Path, config: dict[str, Any], ranks: set[int]) -> None:
    """A rank that the weights do not have would reserve memory for layers that nothing fills."""
    pattern = config.get("rank_pattern") or {}
    named = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    wrong = [rank for rank in named if type(rank) is not int or not 0 < rank <= max(ranks, default=0)]
    if wrong or not ranks <= set(named):
        found = ", ".join(map(str, sorted(ranks))) or "none"
        raise ConfigError(
            f"{file} names the ranks {short(named)}, the weights beside it have {found}; they do not belong together: "
            "copy both files of one adapter"
        )
