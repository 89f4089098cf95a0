"""The `task` group: what a run trains, and how it becomes a LightningModule and a folder of weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from transformers import PreTrainedModel

from lookright.attention.band import layer_band
from lookright.backbones.base import Backbone
from lookright.config.check import Problems
from lookright.errors import ConfigError
from lookright.losses.composite import CompositeLoss
from lookright.reference.base import ModelPair, Preparation
from lookright.reports.training import HeldOutPair
from lookright.training.base import TunedModule
from lookright.training.datamodule import PreferenceData
from lookright.training.optimization import Optimization
from lookright.training.preference import PreferenceModule


@dataclass(slots=True, kw_only=True)
class RunParts:
    """What a config names, instantiated: everything but weights."""

    config: DictConfig
    backbone: Backbone
    data: LightningDataModule
    num_steps: int
    dtype: torch.dtype

    @property
    def optimization(self) -> Optimization:
        """The typed settings of the optimiser."""
        return Optimization(**OmegaConf.to_container(self.config.optimization))


class Task(ABC):
    """One kind of training."""

    idle_parameters = False
    """Whether some parameters that train may get no gradient from the loss; known once `check` was called."""

    def check(self, problems: Problems) -> None:
        """Add what is wrong with the config, as far as it can be told without backbone and data."""
        del problems

    @abstractmethod
    def prepare(self, config: DictConfig, backbone: Backbone, data: LightningDataModule) -> None:
        """Check config and data against the backbone, before any weights load."""

    @abstractmethod
    def module(self, parts: RunParts) -> TunedModule:
        """Load or make the weights, and the LightningModule around them."""

    def before_fit(self, module: Any, data: LightningDataModule, trainer: Trainer) -> None:
        """What has to be computed with the weights as they are loaded; nothing by itself."""
        del module, data, trainer

    def held_out_pairs(self, module: Any, data: Any) -> list[HeldOutPair]:
        """Held-out pairs for the page, as the last validation found them; none by itself."""
        del module, data
        return []

    @abstractmethod
    def save(self, module: Any, folder: Path) -> Path:
        """Write what was trained below the run's `folder`; returns where."""


class PreferenceTask(Task):
    """Tune a policy on preference pairs."""

    def check(self, problems: Problems) -> None:
        """Build loss and tuning, and see that the reference can be built."""
        config = problems.config
        self.loss: CompositeLoss = problems.build("loss", "all")
        self.tuning = problems.build("tuning")
        problems.build("reference")
        with problems:
            if config.loss is None:
                raise ConfigError("task=preference needs a loss; set loss=preference")
            if config.reference is None and self.loss is not None and self.loss.needs_reference:
                raise ConfigError("the loss compares with a reference; set reference=adapter_off, or loss.alpha=0")
        if None in (self.loss, self.tuning):
            return
        # the attention term ends at the highest layer of its band; a tower's last layers may feed nothing
        only_attention = all(term.needs_attention for _, term in self.loss.terms.values())
        self.idle_parameters = only_attention or bool(getattr(self.tuning, "train_vision", False))

    def prepare(self, config: DictConfig, backbone: Backbone, data: LightningDataModule) -> None:
        """Find the loss's layers, try tuning and reference on a model without weights, read the records."""
        layer_band(backbone.num_layers, self.loss.attention_layers)
        if config.tuning.get("adapter") is None:
            with torch.device("meta"):
                self._pair(config, backbone, backbone.build(weights=False))
        data.prepare(backbone, needs_target=self.loss.needs_attention)

    def module(self, parts: RunParts) -> PreferenceModule:
        """Base weights, adapters, reference."""
        pair = self._pair(parts.config, parts.backbone, parts.backbone.build(dtype=parts.dtype))
        none = "reference: none, no active loss term needs one"
        rank_zero_info(none if pair.reference is None else pair.reference.describe())
        return PreferenceModule(pair, self.loss, parts.optimization, parts.num_steps)

    def _pair(self, config: DictConfig, backbone: Backbone, model: PreTrainedModel) -> ModelPair:
        policy = self.tuning.apply(backbone, model)
        return ModelPair(backbone, policy, instantiate(config.reference) if self.loss.needs_reference else None)

    def before_fit(self, module: PreferenceModule, data: LightningDataModule, trainer: Trainer) -> None:
        """Let the reference prepare."""
        prepare_reference(module, data, trainer)

    def held_out_pairs(self, module: PreferenceModule, data: PreferenceData) -> list[HeldOutPair]:
        """All that were validated."""
        records = zip(data.val_set.records, data.val_set.pictures, strict=True)
        return [
            HeldOutPair(record=record, pictures=pictures, metrics=module.held_out[record.id][1])
            for record, pictures in records
            if record.id in module.held_out
        ]

    def save(self, module: PreferenceModule, folder: Path) -> Path:
        """`adapter/` in PEFT's format, or `model/` after full tuning."""
        policy = module.pair.policy
        if isinstance(policy, PeftModel):
            policy.save_pretrained(folder / "adapter")
            return folder / "adapter"
        module.pair.backbone.save_pretrained(policy, folder / "model")
        return folder / "model"


def prepare_reference(module: PreferenceModule, data: LightningDataModule, trainer: Trainer) -> None:
    """What the reference of a pair computes before the first step, on the run's device and in its precision."""
    if module.pair.reference is None:
        return
    strategy = trainer.strategy
    # a process that starts the others itself is alone here, and does the work of all
    environment = getattr(strategy, "cluster_environment", None)
    alone = environment is None or not environment.creates_processes_externally
    rank, num_ranks = (0, 1) if alone else (trainer.global_rank, trainer.world_size)
    preparation = Preparation(
        loaders=lambda: data.scoring_dataloaders(rank, num_ranks),
        device=strategy.root_device,
        precision=str(trainer.precision),
        context=strategy.precision_plugin.forward_context,
        num_ranks=num_ranks,
        show_progress=trainer.is_global_zero,
    )
    module.pair.reference.prepare(strategy.precision_plugin.convert_module(module).pair, preparation)
