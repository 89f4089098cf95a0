"""A dry run: tokens, parameters and an estimate of peak memory, without loading weights."""

from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule
from omegaconf import DictConfig

from lookright.backbones.base import Backbone
from lookright.runtime import torch_dtype


def print_plan(config: DictConfig, backbone: Backbone, data: LightningDataModule, num_steps: int) -> dict[str, Any]:
    """Print and return the plan of a run; sizes in bytes."""
    with torch.device("meta"):
        model = backbone.build(weights=False, dtype=torch_dtype(config.trainer.model_dtype, "trainer.model_dtype"))
        policy = instantiate(config.tuning).apply(backbone, model)
    total = sum(parameter.numel() for parameter in policy.parameters())
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    num_trained = sum(parameter.numel() for parameter in trained)
    held = sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())
    # gradient and AdamW's two moments for each parameter that trains
    optimizer = sum(3 * parameter.numel() * parameter.element_size() for parameter in trained)
    lengths = data.train_sampler.lengths
    batches = [sum(lengths[index] for index in batch) for batch in data.train_sampler]
    activations = max(batches) * _bytes_per_token(backbone, model, config)
    plan = {
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "optimizer_steps": num_steps,
        "tokens_per_pair": {"mean": sum(lengths) / len(lengths), "largest": max(lengths)},
        "tokens_per_batch": {"mean": sum(batches) / len(batches), "largest": max(batches)},
        "parameters": total,
        "trained_parameters": num_trained,
        "bytes": {"weights": held, "gradients_and_optimizer": optimizer, "activations": activations},
        "peak_bytes_estimate": held + optimizer + activations,
    }
    _show(plan)
    return plan


def _bytes_per_token(backbone: Backbone, model: torch.nn.Module, config: DictConfig) -> int:
    """Activations kept for the backward pass: about 16 hidden and 4 MLP widths a layer, or one hidden checkpointed.

    The layer that is recomputed counts once. An estimate from the structure of a gated decoder layer, not measured.
    """
    text = model.config.get_text_config()
    size = torch.finfo(torch_dtype(config.trainer.model_dtype, "trainer.model_dtype")).bits // 8
    layer = (16 * text.hidden_size + 4 * text.intermediate_size) * size
    if config.trainer.gradient_checkpointing:
        return layer + backbone.num_layers * text.hidden_size * size
    return layer * backbone.num_layers


def _show(plan: dict[str, Any]) -> None:
    gib, pair, batch = 2**30, plan["tokens_per_pair"], plan["tokens_per_batch"]
    print(f"{plan['examples']} pairs, {plan['held_out']} held out, {plan['optimizer_steps']} optimiser steps")
    print(f"tokens a pair: {pair['mean']:.0f} on average, {pair['largest']} at most")
    print(f"tokens a batch: {batch['mean']:.0f} on average, {batch['largest']} at most")
    print(f"parameters: {plan['parameters']:,}, of which {plan['trained_parameters']:,} train")
    parts = ", ".join(f"{name.replace('_', ' ')} {value / gib:.2f} GiB" for name, value in plan["bytes"].items())
    print(f"estimated peak memory: {plan['peak_bytes_estimate'] / gib:.2f} GiB ({parts})")
