"""The official checkpoint folder, read and written one shard at a time."""

import json
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.modeling import Ixc25ForCausalLM
from lookright.backbones.ixc25.names import official_name, official_shapes, parameter_name
from lookright.errors import ConfigError

TASK_LORA = re.compile(r".+\.lora_(sft|dpo|web)_[AB]\.weight")
"""LoRAs of the writing modes; the model that chats about pictures never uses them."""
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
SHARD_BYTES = 5_000_000_000

log = logging.getLogger(__name__)


def weight_files(folder: Path) -> list[Path]:
    """Shards of a checkpoint, safetensors before .bin; raises ConfigError where some or all are missing."""
    for name in INDEX_FILES:
        if (folder / name).is_file():
            weight_map = json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / shard for shard in sorted(set(weight_map.values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise ConfigError(f"{folder / name} lists {', '.join(missing)}, not in the folder; fetch them again")
            return files
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    expected = ", ".join(INDEX_FILES + SINGLE_FILES)
    raise ConfigError(f"backbone.path={folder} holds no weights; put one of these there: {expected}")


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor | None]]:
    """Names and tensors of one shard, one at a time; a task LoRA comes as None, its data unread where possible."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a dict
                yield name, None if TASK_LORA.fullmatch(name) else shard.get_tensor(name)
        return
    shard = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    for name in list(shard):
        tensor = shard.pop(name)
        yield name, None if TASK_LORA.fullmatch(name) else tensor


def load_checkpoint(folder: Path, config: Ixc25Config, dtype: torch.dtype) -> Ixc25ForCausalLM:
    """The model of an official folder, or of one that `save_checkpoint` wrote, in eval mode on the CPU.

    Never holds more than the model and one tensor. Raises ConfigError naming every tensor that is missing,
    unknown or of another shape than the configuration says; the task LoRAs alone are skipped, with a log line.
    """
    model = _empty_model(config)
    missing = {official_name(name): name for name, _ in model.named_parameters()}
    shapes = official_shapes(model)
    skipped: Counter[str] = Counter()
    problems: list[str] = []
    for file in weight_files(folder):
        for name, tensor in read_tensors(file):
            if tensor is None:
                skipped[TASK_LORA.fullmatch(name)[1]] += 1
            elif name not in shapes:
                problems.append(f"{name} in {file.name} is unknown")
            elif tuple(tensor.shape) != shapes[name]:
                problems.append(f"{name} in {file.name} is {tuple(tensor.shape)}, config.json asks for {shapes[name]}")
                missing.pop(name, None)
            else:
                # a copy: otherwise the model would go on reading a file that may be written again
                _assign(model, parameter_name(name), tensor.to(dtype, copy=True))
                missing.pop(name, None)
    problems += [f"{name} is missing" for name in missing]
    if problems:
        shown = "\n  ".join(problems[:20])
        rest = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ConfigError(f"the weights in {folder} do not fit its config.json:\n  {shown}{rest}")
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        log.info("%s: skipped %d tensors of the task LoRAs (%s)", folder, skipped.total(), counts)
    model.config.dtype = dtype
    return model.eval()


def save_checkpoint(model: Ixc25ForCausalLM, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json, generation_config.json and safetensors shards with their index, in official names.

    Raises ConfigError for a model that still carries an adapter.
    """
    state = model.state_dict()
    foreign = [name for name in state if ".base_layer." in name or ".lora_" in name]
    if foreign:
        raise ConfigError(f"the model carries an adapter ({foreign[0]}); merge it or remove it before saving")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _split(state, shard_bytes)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {official_name(name): state[name].detach().cpu().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    total = sum(tensor.nbytes for tensor in state.values())
    _write_json(folder / INDEX_FILES[0], {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(folder / "config.json", model.config.to_official_dict() | {"torch_dtype": _dtype_name(state)})
    generation = model.generation_config
    ids = {key: getattr(generation, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", ids)


def _empty_model(config: Ixc25Config) -> Ixc25ForCausalLM:
    """The model with its parameters on the meta device, its one buffer real."""
    with torch.device("meta"):
        model = Ixc25ForCausalLM(config)
    embeddings = model.vit.vision_tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    unexpected = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not unexpected, f"buffers that no checkpoint holds: {unexpected}"
    return model


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor))


def _split(state: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut where a shard would exceed `shard_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _dtype_name(state: dict[str, Tensor]) -> str:
    return str(next(iter(state.values())).dtype).removeprefix("torch.")


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
