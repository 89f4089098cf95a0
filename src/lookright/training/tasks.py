"""The `task` group: what a run trains, and how it becomes a LightningModule and a folder of weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel

from lookright.backbones.base import Backbone
from lookright.errors import ConfigError
from lookright.reference.base import ModelPair
from lookright.training.base import TunedModule
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

    @abstractmethod
    def prepare(self, config: DictConfig, backbone: Backbone, data: LightningDataModule) -> None:
        """Check config and data before any weights load."""

    @abstractmethod
    def module(self, parts: RunParts) -> TunedModule:
        """Load or make the weights, and the LightningModule around them."""

    @abstractmethod
    def save(self, module: Any, folder: Path) -> Path:
        """Write what was trained below the run's `folder`; returns where."""


class PreferenceTask(Task):
    """Tune a policy on preference pairs."""

    def prepare(self, config: DictConfig, backbone: Backbone, data: LightningDataModule) -> None:
        """Build the loss, find its layers and read the records that it needs."""
        if config.loss is None:
            raise ConfigError("task=preference needs a loss; set loss=preference")
        self.loss = instantiate(config.loss, _convert_="all")
        data.prepare(backbone, needs_target=self.loss.needs_attention)

    def module(self, parts: RunParts) -> PreferenceModule:
        """Base weights, adapters, reference."""
        config = parts.config
        tuning = instantiate(config.tuning)
        policy = tuning.apply(parts.backbone, parts.backbone.build(dtype=parts.dtype))
        reference = instantiate(config.reference) if self.loss.needs_reference else None
        pair = ModelPair(parts.backbone, policy, reference)
        print(reference.describe() if reference is not None else "reference: none, no active loss term needs one")
        return PreferenceModule(pair, self.loss, parts.optimization, parts.num_steps)

    def save(self, module: PreferenceModule, folder: Path) -> Path:
        """`adapter/` in PEFT's format, or `model/` after full tuning."""
        policy = module.pair.policy
        if isinstance(policy, PeftModel):
            policy.save_pretrained(folder / "adapter")
            return folder / "adapter"
        module.pair.backbone.save_pretrained(policy, folder / "model")
        return folder / "model"
