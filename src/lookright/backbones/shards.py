"""Weights of a checkpoint folder, read one tensor at a time and written one shard at a time, under any names."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lookright.backbones.tensor_files import SAFETENSORS, check_file, check_numbers, read_tensors, shapes_in
from lookright.common.pictures import leaves_folder
from lookright.common.strict_json import read_object, short
from lookright.errors import ConfigError

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json"]
"""What a hub is asked for."""
SHARD_BYTES = 5_000_000_000
SHOWN_PROBLEMS = 20


def weight_files(folder: Path, key: str = "backbone.path") -> list[Path]:
    """Shards of a checkpoint, safetensors before .bin; raises ConfigError where some or all are missing."""
    for name in INDEX_FILES:
        if (folder / name).is_file():
            files = [folder / shard for shard in sorted(set(weight_map(folder / name).values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise ConfigError(f"{folder / name} lists {', '.join(missing)}, not in the folder; fetch them again")
            return files
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    expected = ", ".join(INDEX_FILES + SINGLE_FILES)
    raise ConfigError(f"{key}={folder} holds no weights; put one of these there: {expected}")


def check_local_files(folder: Path) -> None:
    """Raise ConfigError for a damaged index or file of weights in a local folder; a hub checks what it sends."""
    if any((folder / name).exists() for name in (*INDEX_FILES, *SINGLE_FILES)):
        for file in weight_files(folder):
            if file.suffix == SAFETENSORS:
                shapes_in(file)
            else:
                check_file(file)


def weight_map(index: Path) -> dict[str, str]:
    """Tensor names and the files beside `index` that hold them. Raises ConfigError for a damaged or a strange index."""
    remedy = "fetch it again"
    found = read_object(index, remedy).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) and file for file in found.values()) or not found:
        raise ConfigError(f"{index}: weight_map is no object of tensor names and file names; {remedy}")
    outside = [file for file in found.values() if Path(file).name != file or leaves_folder(file) or len(file) > 255]
    if outside:
        raise ConfigError(f"{index} names {short(outside[0])}, which is no name of a file beside it; {remedy}")
    return found


def tensor_names(folder: Path) -> set[str]:
    """Names of all tensors of a checkpoint, no data read. Raises ConfigError where it has no weights."""
    for name in INDEX_FILES:
        if (folder / name).is_file():
            return set(weight_map(folder / name))
    return {name for file in weight_files(folder) for name, _ in read_tensors(file, skip=lambda _: True)}


@dataclass(slots=True, kw_only=True)
class Filling:
    """What happened while tensors were read: misfits in words, and the names that were skipped."""

    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, folder: Path) -> None:
        """Raise ConfigError that names the misfits."""
        if self.problems:
            shown = "\n  ".join(self.problems[:SHOWN_PROBLEMS])
            more = len(self.problems) - SHOWN_PROBLEMS
            rest = f"\n  and {more} more" if more > 0 else ""
            raise ConfigError(f"the weights in {folder} do not fit its config.json:\n  {shown}{rest}")


def fill(
    files: Sequence[Path],
    shapes: Mapping[str, tuple[int, ...]],
    put: Callable[[str, Tensor], None],
    *,
    skip: Callable[[str], bool],
    rename: Callable[[str], str] = str,
) -> Filling:
    """Hand each tensor that `shapes` asks for to `put`; `rename` turns a name of a file into one of `shapes`.

    Whatever is missing, unknown, there twice or of another shape is a problem of the result. Raises ConfigError for a
    damaged file, and for values that are no numbers.
    """
    filling, missing = Filling(), dict.fromkeys(shapes)
    seen: dict[str, str] = {}
    for file in files:
        for found, tensor in read_tensors(file, skip):
            name = rename(found)
            if tensor is None:
                filling.skipped.append(found)
                continue
            missing.pop(name, None)
            if name in seen:
                filling.problems.append(f"{found} is in {seen[name]} and in {file.name}")
            elif name not in shapes:
                filling.problems.append(f"{found} in {file.name} is unknown")
            elif tuple(tensor.shape) != shapes[name]:
                wrong = f"{found} in {file.name} is {tuple(tensor.shape)}"
                filling.problems.append(f"{wrong}, config.json asks for {shapes[name]}")
            else:
                check_numbers(tensor, found, file)
                put(name, tensor)
            seen[name] = file.name
    filling.problems += [f"{name} is missing" for name in missing]
    return filling


def of_its_own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of a file in `dtype` and in memory of its own, so that the file may be written again.

    On a machine with GPUs it stays in the file's map where it has that type already: the map is shared by all ranks of
    a node, and the model moves to its device before anything else happens.
    """
    return tensor.to(dtype, copy=not torch.cuda.is_available())


def assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of the parameter `name`, which may lie on the meta device."""
    owner, _, leaf = name.rpartition(".")
    parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
    setattr(model.get_submodule(owner), leaf, parameter)


def check_bare(state: Mapping[str, Tensor]) -> None:
    """Raise ConfigError for the state of a model that still carries an adapter, or holds weights in 4 bits."""
    foreign = [name for name in state if ".base_layer." in name or ".lora_" in name]
    if foreign:
        raise ConfigError(f"the model carries an adapter ({foreign[0]}); merge it or remove it before saving")
    packed = [name for name in state if ".quant_state." in name]
    if packed:
        raise ConfigError(
            f"the model holds weights in 4 bits ({packed[0]}), which no published layout has; save one that was "
            "loaded with backbone.quantization=null"
        )


def write_shards(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write safetensors shards and their index; no more than one shard is held beside `tensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _split(tensors, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        held = {name: tensors[name].detach().cpu().contiguous() for name in names}
        # a model may still be reading the file of that name
        temporary = folder / f"{file}.tmp"
        save_file(held, temporary, metadata={"format": "pt"})
        temporary.replace(folder / file)
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX_FILES[0], {"metadata": {"total_size": total}, "weight_map": weight_map})


def dtype_name(tensors: Mapping[str, Tensor]) -> str:
    """Type of the first tensor as a configuration names it, such as `bfloat16`."""
    return str(next(iter(tensors.values())).dtype).removeprefix("torch.")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write `content`, indented, other scripts as they are."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _split(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut where a shard would exceed `shard_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards
