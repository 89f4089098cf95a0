"""A dry run: tokens, parameters and an estimate of peak memory, without loading weights."""

from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from lookright.backbones.base import Backbone
from lookright.backbones.loading import torch_dtype
from lookright.packing.batch import pack
from lookright.training.datamodule import PreferenceData
from lookright.training.memory import StepSettings, compute_bytes, peak_memory


def print_plan(config: DictConfig, backbone: Backbone, data: PreferenceData, num_steps: int) -> dict[str, Any]:
    """Print and return the plan of a run; sizes in bytes."""
    dtype = torch_dtype(config.trainer.model_dtype, "trainer.model_dtype")
    with torch.device("meta"):
        model = backbone.build(weights=False, dtype=dtype)
        policy = instantiate(config.tuning).apply(backbone, model)
    lengths = data.train_sampler.lengths
    batches = [sum(lengths[index] for index in batch) for batch in data.train_sampler]
    largest = max(data.train_sampler, key=lambda batch: sum(lengths[index] for index in batch))
    batch = pack([data.train_set[index] for index in largest])
    parts = peak_memory(backbone, policy, model, batch, _settings(config, dtype))
    plan = {
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "optimizer_steps": num_steps,
        "tokens_per_pair": {"mean": sum(lengths) / len(lengths), "largest": max(lengths)},
        "tokens_per_batch": {"mean": sum(batches) / len(batches), "largest": max(batches)},
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad),
        "bytes": parts,
        "peak_bytes_estimate": sum(parts.values()),
    }
    _show(plan)
    return plan


def _settings(config: DictConfig, dtype: torch.dtype) -> StepSettings:
    needs_reference = config.loss is not None and instantiate(config.loss, _convert_="all").needs_reference
    return StepSettings(
        compute_bytes=compute_bytes(str(config.trainer.precision), dtype),
        mask_bytes=4 if config.trainer.accelerator == "cpu" else 1,
        gradient_checkpointing=config.trainer.gradient_checkpointing,
        copies_policy=needs_reference and get_class(config.reference._target_).copies_policy,
    )


def _show(plan: dict[str, Any]) -> None:
    gib, pair, batch = 2**30, plan["tokens_per_pair"], plan["tokens_per_batch"]
    print(f"{plan['examples']} pairs, {plan['held_out']} held out, {plan['optimizer_steps']} optimiser steps")
    print(f"tokens a pair: {pair['mean']:.0f} on average, {pair['largest']} at most")
    print(f"tokens a batch: {batch['mean']:.0f} on average, {batch['largest']} at most")
    print(f"parameters: {plan['parameters']:,}, of which {plan['trained_parameters']:,} train")
    parts = ", ".join(f"{name.replace('_', ' ')} {value / gib:.2f} GiB" for name, value in plan["bytes"].items())
    print(f"estimated peak memory: {plan['peak_bytes_estimate'] / gib:.2f} GiB ({parts})")
