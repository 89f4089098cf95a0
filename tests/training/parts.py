"""Preference modules in small, and the manual step that the tests take."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lookright.backbones.llava import LlavaBackbone
from lookright.losses.composite import CompositeLoss
from lookright.packing.batch import PackedBatch, pack
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.training.optimization import Linear, Optimization, Schedule
from lookright.training.preference import PreferenceModule
from lookright.tuning.lora import LoraTuning
from tests.examples import LONG, lively_model, make_example
from tests.weighted import make_loss


def make_module(
    backbone: LlavaBackbone,
    loss: CompositeLoss | None = None,
    *,
    tuning: Any = None,
    reference: Reference | None = None,
    rate: float = 1e-3,
    dtype: torch.dtype = torch.float64,
) -> PreferenceModule:
    """DPO + SFT + attention on LoRA with adapter dropout, unless told; in training mode."""
    tuning = LoraTuning(r=4, alpha=8, dropout=0.5) if tuning is None else tuning
    policy = tuning.apply(backbone, lively_model(backbone, dtype))
    pair = ModelPair(backbone, policy, AdapterOff() if reference is None else reference)
    loss = make_loss(threshold=1.0) if loss is None else loss
    module = PreferenceModule(pair, loss, make_optimization(rate, rate / 2), 10)
    return module.train()


def make_optimization(
    rate: float = 5e-5,
    projector_rate: float | None = 2e-5,
    schedule: Schedule | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Optimization:
    """AdamW and a linear schedule, as `conf/` has them."""
    optimizer = partial(AdamW, lr=rate, betas=betas, weight_decay=weight_decay)
    return Optimization(optimizer=optimizer, schedule=schedule or Linear(), projector_lr=projector_rate)


def make_batch(backbone: LlavaBackbone) -> PackedBatch:
    """Two pairs, one with two rejected."""
    several = make_example(backbone, 3, ["blue circle", "no", "yes"], seed=4)
    return pack([make_example(backbone, 2, ["red", LONG]), several])


def take_steps(module: PreferenceModule, batch: PackedBatch, num_steps: int = 1) -> list[float]:
    """Optimiser steps as Lightning takes them; the loss before each."""
    parts = module.configure_optimizers()
    found = []
    for _ in range(num_steps):
        loss = module.score_batch(batch, read_attention=module.loss.needs_attention)[0].mean()
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
        parts["lr_scheduler"]["scheduler"].step()
        found.append(float(loss))
    return found


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that are no longer bitwise what they were."""
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
