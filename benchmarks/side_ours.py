"""Our side: the data module, module and trainer of `train.py`."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedModel

from benchmarks.shapes import fresh_model
from benchmarks.turns import Turns
from benchmarks.workload import BETA, SEED, Workload, lora, optimization
from lookright.attention.kernels import use_prefix_kernel
from lookright.backbones.base import Backbone
from lookright.backbones.loading import DTYPES
from lookright.losses.attention import AttentionLoss
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.losses.preference.dpo import DPOLoss
from lookright.packing.batch import pack
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.cached import CachedLogps
from lookright.training import precision
from lookright.training.compilation import compile_blocks
from lookright.training.datamodule import PreferenceData
from lookright.training.memory import StepSettings, compute_bytes, peak_memory
from lookright.training.preference import PreferenceModule, prepare_reference
from lookright.training.trainer import TrainerSettings


class StepTurns(Callback):
    """Closes a turn after every batch: fetching, forward, backward and optimiser lie inside."""

    def __init__(self, turns: Turns, **told: Any) -> None:
        self.turns, self.told = turns, told

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is built and the reference is ready."""
        del trainer, pl_module
        self.turns.ready(**self.told)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch is one optimiser step."""
        del pl_module, batch, batch_idx
        self.turns.finish(float(trainer.callback_metrics["train/loss"]))


def run(workload: Workload, options: argparse.Namespace, turns: Turns) -> None:
    """DPO, with the attention term where asked for, until told to end."""
    backbone = workload.backbone()
    path = workload.pairs(options.images, options.rejected)
    data = PreferenceData(path=str(path), val_fraction=0.0, batch_size=options.pairs)
    data.prepare(backbone, needs_target=options.attention)
    data.train_sampler.shuffle = False
    settings = TrainerSettings(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        precision=options.precision,
        attention_kernel=options.prefix_kernel,
        max_epochs=1000,
        progress_bar=False,
    )
    use_prefix_kernel(settings.attention_kernel)
    if options.kernels != "auto":
        precision.cpu_has_bfloat16 = lambda: options.kernels == "bfloat16"
    model = _model(backbone, options)
    torch.manual_seed(SEED)
    policy = lora(options.rank, options.dropout).apply(backbone, model)
    attention = Weighted(0.9 if options.attention else 0.0, AttentionLoss())
    loss = CompositeLoss({"preference": Weighted(1.0, DPOLoss(BETA)), "attention": attention})
    with tempfile.TemporaryDirectory() as folder:
        reference: Reference = AdapterOff() if options.reference == "adapter_off" else CachedLogps(f"{folder}/logps")
        module = PreferenceModule(ModelPair(backbone, policy, reference), loss, optimization(), num_steps=1000)
        if options.checkpointing:
            module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
        if options.compile:
            compile_blocks(backbone.language_model(module.trained_model))
        trainer = settings.build(Path(folder), [], seed=SEED, has_validation=False, idle_parameters=False)
        trainer.callbacks.append(StepTurns(turns, **_estimate(module, data, options)))
        prepare_reference(module, data, trainer)
        trainer.fit(module, datamodule=data)


def _model(backbone: Backbone, options: argparse.Namespace) -> PreTrainedModel:
    dtype = DTYPES[options.dtype]
    if options.fresh:
        return fresh_model(backbone, torch.device(options.device), dtype, four_bit=options.four_bit)
    torch.manual_seed(SEED)
    return backbone.build(dtype=dtype)


def _estimate(module: PreferenceModule, data: PreferenceData, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens of a row, and the memory that `trainer.plan` would tell for it."""
    settings = StepSettings(
        compute_bytes=compute_bytes(options.precision, DTYPES[options.dtype]),
        mask_bytes=4 if options.device == "cpu" else 1,
        gradient_checkpointing=options.checkpointing,
        copies_policy=False,
    )
    batch = pack([data.train_set[index] for index in next(iter(data.train_sampler))])
    pair = module.pair
    parts = peak_memory(pair.backbone, pair.policy, pair.model, batch, settings)
    return {
        "tokens": batch.input_ids.shape[1],
        "estimate_mib": {name: value / 2**20 for name, value in parts.items()},
    }
