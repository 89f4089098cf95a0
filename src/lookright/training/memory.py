"""How much memory a training step takes, from the structure of the model and one packed batch."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lookright.backbones.adapters import LoraLayer
from lookright.backbones.base import Backbone
from lookright.backbones.quantization import BYTES_PER_WEIGHT
from lookright.packing.batch import PackedBatch

FLOAT = 4
"""Bytes of norms, probabilities, log-softmax and adapters, whatever the rest is computed in."""


@dataclass(slots=True, kw_only=True)
class StepSettings:
    """What a step's memory depends on beside model and batch.

    `compute_bytes` of the type that products are taken in; `mask_bytes` an element of a dropout mask: a float
    on the CPU, one byte on CUDA; `copies_policy` where the reference is a second model.
    """

    compute_bytes: int
    mask_bytes: int
    gradient_checkpointing: bool
    copies_policy: bool


def peak_memory(
    backbone: Backbone, policy: nn.Module, model: PreTrainedModel, batch: PackedBatch, settings: StepSettings
) -> dict[str, int]:
    """Bytes under `weights`, `gradients_and_optimizer` and `activations`; their sum is the peak.

    Weights: every parameter, twice for a reference that is a copy. Gradients and AdamW's two moments: of what
    trains. Activations: what autograd keeps of every decoder layer (inputs of norms and of trained linear
    layers with their dropout, queries, keys, values, attention's output, both upper products of the MLP, the
    probabilities of the suffix rows), of the trimmed last layer only what whole rows need; with checkpointing
    one input a layer and one layer whole; the logits of response rows; the intermediate values of one layer
    in the reference's or the backward pass; or instead of all this the encoding of the pictures without
    gradient, where that is more.

    Not counted: the libraries (about 400 MiB), what they load on the first step (about 40), other processes, and
    what an allocator holds without using it: a process of 1,287 MiB had 1,405 with the huge pages that lookright
    asks for and 1,611 without, where glibc's mmap threshold was not fixed (MALLOC_MMAP_THRESHOLD_, which makes steps
    1.3 times as long). `docs/benchmarks.md` has the estimate beside the peaks of processes (`benchmarks.estimate`): it
    was 5 % too low to 11 % too high in float32 on the CPU. On CUDA and in 16 bits it is not measured.
    """
    copies = 2 if settings.copies_policy else 1
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    decoder = _decoder_bytes(backbone, model, batch, settings)
    return {
        "weights": copies * _weight_bytes(backbone, policy, model),
        "gradients_and_optimizer": sum(3 * parameter.numel() * parameter.element_size() for parameter in trained),
        "activations": max(decoder, _picture_bytes(model, batch, settings)),
    }


def _weight_bytes(backbone: Backbone, policy: nn.Module, model: PreTrainedModel) -> int:
    total = sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())
    if backbone.quantization is None:
        return total
    # what adapters wrap is what is held in 4 bits
    adapted = [part for name, part in model.named_modules() if re.fullmatch(backbone.lora_targets(), name)]
    matrices = [(part.get_base_layer() if isinstance(part, LoraLayer) else part).weight for part in adapted]
    return total - sum(int(p.numel() * (p.element_size() - BYTES_PER_WEIGHT)) for p in matrices)


def _decoder_bytes(backbone: Backbone, model: PreTrainedModel, batch: PackedBatch, settings: StepSettings) -> int:
    text, size = model.config.get_text_config(), settings.compute_bytes
    hidden, tokens = text.hidden_size, batch.input_ids.shape[1]
    head = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    query, key = text.num_attention_heads * head, text.num_key_value_heads * head
    cells = sum(group.num_suffix * group.num_tokens for group in batch.layout.groups) * text.num_attention_heads
    probabilities = cells * (FLOAT if size == FLOAT else FLOAT + size)
    inputs, total_width = _input_bytes(backbone.language_model(model).layers[0], text, settings)
    layer = tokens * (2 * hidden * FLOAT + (2 * query + 2 * key + 2 * text.intermediate_size) * size + inputs)
    # whole rows are needed for keys and values alone
    last = tokens * (hidden * FLOAT + 2 * key * size + inputs * 2 * hidden // total_width)
    passing = tokens * (4 * hidden + 3 * text.intermediate_size) * size
    embedded = 2 * tokens * hidden * size
    logits = len(batch.scored.targets) * text.vocab_size * (2 * FLOAT + size)
    if settings.gradient_checkpointing:
        kept = backbone.num_layers * tokens * hidden * size + layer + probabilities
    else:
        kept = (backbone.num_layers - 1) * (layer + probabilities) + last + probabilities
    return kept + passing + embedded + logits


def _input_bytes(layer: nn.Module, text: PreTrainedConfig, settings: StepSettings) -> tuple[int, int]:
    """Bytes a token that a decoder layer keeps for the gradients of its weights, and the widths they belong to."""
    hidden, middle, size = text.hidden_size, text.intermediate_size, settings.compute_bytes
    adapters = [module for module in layer.modules() if isinstance(module, LoraLayer)]
    if not adapters:
        trains = any(parameter.requires_grad for parameter in layer.parameters())
        # queries, keys and values share an input, so do the two upper matrices of the MLP; norms train too
        return (5 * hidden + middle) * size if trains else 0, 6 * hidden + middle
    width = sum(module.in_features for module in adapters)
    ranks = sum(rank for module in adapters for rank in module.r.values()) * size
    drops = any(dropout.p for module in adapters for dropout in module.lora_dropout.values() if hasattr(dropout, "p"))
    if drops:
        return width * (settings.mask_bytes + size) + ranks, width
    return min(width, 3 * hidden + middle) * size + ranks if size == FLOAT else width * size + ranks, width


def _picture_bytes(model: PreTrainedModel, batch: PackedBatch, settings: StepSettings) -> int:
    """All hidden states of the tower, and the widest values of one of its layers, while pictures are encoded."""
    tower = getattr(model.config, "vision_config", None)
    if tower is None:
        return 0
    patches = sum(pixels.shape[-1] * pixels.shape[-2] for pixels in batch.pixels) // tower.patch_size**2
    widths = (tower.num_hidden_layers + 5) * tower.hidden_size + 2 * tower.intermediate_size
    return patches * widths * settings.compute_bytes + 2 * sum(pixels.nbytes for pixels in batch.pixels)


def compute_bytes(precision: str, dtype: torch.dtype) -> int:
    """Bytes of the type that products are taken in under Lightning's `precision`."""
    return 2 if precision.startswith(("16", "bf16")) else dtype.itemsize
