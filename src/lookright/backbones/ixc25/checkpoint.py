"""The official checkpoint folder, read and written one shard at a time."""

import json
import logging
import re
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.modeling import Ixc25ForCausalLM, official_name, parameter_name
from lookright.backbones.shards import (
    INDEX_FILES,
    SHARD_BYTES,
    assign,
    check_bare,
    dtype_name,
    fill,
    of_its_own,
    weight_files,
    write_json,
    write_shards,
)
from lookright.backbones.sizes import model_without_weights
from lookright.backbones.tensor_files import read_tensors

TASK_LORA = re.compile(r".+\.lora_(sft|dpo|web)_[AB]\.weight")
"""LoRAs of the writing modes; the model that chats about pictures never uses them."""

log = logging.getLogger(__name__)


def load_checkpoint(folder: Path, config: Ixc25Config, dtype: torch.dtype) -> Ixc25ForCausalLM:
    """The model of an official folder, or of one that `save_checkpoint` wrote, in eval mode on the CPU.

    Never holds more than the model and one tensor. Raises ConfigError naming every tensor that is missing,
    unknown or of another shape than the configuration says; the task LoRAs alone are skipped, with a log line.
    """
    model = _empty_model(config, folder)

    def put(name: str, tensor: Tensor) -> None:
        assign(model, parameter_name(name), of_its_own(tensor, dtype))

    filling = fill(weight_files(folder), official_shapes(model), put, skip=lambda name: bool(TASK_LORA.fullmatch(name)))
    filling.check(folder)
    if filling.skipped:
        kinds = Counter(found[1] for name in filling.skipped if (found := TASK_LORA.fullmatch(name)))
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        log.info("%s: skipped %d tensors of the task LoRAs (%s)", folder, kinds.total(), counts)
    model.config.dtype = dtype
    return model.eval()


def save_checkpoint(model: Ixc25ForCausalLM, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json, generation_config.json and safetensors shards with their index, in official names.

    Raises ConfigError for a model that still carries an adapter.
    """
    state = model.state_dict()
    check_bare(state)
    write_shards({official_name(name): tensor for name, tensor in state.items()}, folder, shard_bytes)
    write_json(folder / "config.json", model.config.to_official_dict() | {"torch_dtype": dtype_name(state)})
    generation = model.generation_config
    ids = {key: getattr(generation, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)


def copy_task_loras(source: Path, folder: Path) -> int:
    """Add the task LoRAs of one folder to the weights that `save_checkpoint` wrote to another; returns how many.

    The official code has a place for each of them. Those of one file are held at a time.
    """
    index = json.loads((folder / INDEX_FILES[0]).read_text(encoding="utf-8"))
    count = 0
    for number, file in enumerate(weight_files(source), start=1):
        read = read_tensors(file, skip=lambda name: not TASK_LORA.fullmatch(name))
        held = {name: tensor.contiguous() for name, tensor in read if tensor is not None}
        if held:
            name = f"model-task-loras-{number:05d}.safetensors"
            save_file(held, folder / name, metadata={"format": "pt"})
            index["weight_map"] |= dict.fromkeys(held, name)
            index["metadata"]["total_size"] += sum(tensor.nbytes for tensor in held.values())
            count += len(held)
    write_json(folder / INDEX_FILES[0], index)
    return count


def official_shapes(model: Ixc25ForCausalLM) -> dict[str, tuple[int, ...]]:
    """Checkpoint names and shapes of a model, which may lie on the meta device."""
    return {official_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _empty_model(config: Ixc25Config, folder: Path) -> Ixc25ForCausalLM:
    """The model with its parameters on the meta device, its one buffer real."""
    model = model_without_weights(Ixc25ForCausalLM, config, folder)
    embeddings = model.vit.vision_tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    unexpected = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not unexpected, f"buffers that no checkpoint holds: {unexpected}"
    return model
