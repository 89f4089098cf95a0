"""Preference steps on one fixed pair in this process, for scripts that compare steps with each other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.workload import BETA, SEED, Workload, lora, optimization
from lookright.losses.attention import AttentionLoss
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.losses.preference.dpo import DPOLoss
from lookright.packing.batch import PackedBatch, pack
from lookright.packing.encode import encode_preference
from lookright.records.readers import load_preferences
from lookright.reference.base import ModelPair, Reference
from lookright.training.compilation import compile_blocks
from lookright.training.preference import PreferenceModule


class KnownLogps(Reference):
    """What a cached reference gives a step: numbers that are there already."""

    def __init__(self, logps: Tensor) -> None:
        self._logps = logps

    def attach(self, pair: ModelPair) -> None:
        """Any policy will do."""

    def describe(self) -> str:
        """For the log."""
        return "reference: known numbers"

    def logps(self, pair: ModelPair, batch: PackedBatch, features: list[Tensor]) -> Tensor:
        """float32[R]."""
        return self._logps


@dataclass(slots=True, kw_only=True)
class Step:
    """A module, its optimiser and the batch of one pair."""

    module: PreferenceModule
    optimizer: torch.optim.Optimizer
    batch: PackedBatch

    def run(self) -> None:
        """Forward, backward, optimiser."""
        reads = self.module.loss.needs_attention
        loss = self.module.score_batch(self.batch, read_attention=reads)[0].mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def cached_step(
    workload: Workload, num_images: int, layers: list[int] | None = None, *, compiled: bool = False
) -> Step:
    """DPO with known reference numbers; with the attention term on `layers` where they are given."""
    backbone = workload.backbone()
    torch.manual_seed(SEED)
    policy = lora().apply(backbone, backbone.build())
    attention = Weighted(0.0 if layers is None else 0.9, AttentionLoss(threshold=1.0, layers=layers))
    loss = CompositeLoss({"preference": Weighted(1.0, DPOLoss(BETA)), "attention": attention})
    pair = ModelPair(backbone, policy, KnownLogps(torch.full((2,), -400.0)))
    if compiled:
        compile_blocks(backbone.language_model(pair.model))
    module = PreferenceModule(pair, loss, optimization(), num_steps=1000)
    optimizer = module.configure_optimizers()["optimizer"]
    records = load_preferences(workload.pairs(num_images))
    module.train()
    batch = pack([encode_preference(backbone, records.records[0], records.pictures)])
    return Step(module=module, optimizer=optimizer, batch=batch)
