"""What a config of `train.py` names, built and checked before any weights load."""

from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from lookright.attention.band import layer_band
from lookright.backbones.base import Backbone
from lookright.config.check import Problems
from lookright.config.references import origin
from lookright.errors import ConfigError
from lookright.losses.composite import CompositeLoss
from lookright.reference.base import ModelPair
from lookright.training.datamodule import PreferenceData
from lookright.training.optimization import Optimization
from lookright.training.trainer import TrainerSettings
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning


@dataclass(slots=True, frozen=True, kw_only=True)
class TrainParts:
    """What a config names, everything but weights. `config` makes the reference, one for each pair."""

    config: DictConfig
    settings: TrainerSettings
    backbone: Backbone
    data: PreferenceData
    loss: CompositeLoss
    tuning: LoraTuning | FullTuning
    optimization: Optimization

    @property
    def idle_parameters(self) -> bool:
        """Whether some parameters that train may get no gradient from the loss."""
        # the attention term ends at the highest layer of its band; a tower's last layers may feed nothing
        only_attention = len(self.loss.attention_reads) == len(self.loss.terms)
        return only_attention or bool(getattr(self.tuning, "train_vision", False))

    def pair(self, model: PreTrainedModel) -> ModelPair:
        """Return policy and reference around a base model; the reference is there if the loss needs one."""
        policy = self.tuning.apply(self.backbone, model)
        reference = instantiate(self.config.reference) if self.loss.needs_reference else None
        return ModelPair(self.backbone, policy, reference)


def check_parts(config: DictConfig) -> TrainParts:
    """Build what the config names and try what needs no weights. Raises ConfigError with the problems of all parts."""
    problems = Problems(config)
    settings = problems.build("trainer")
    backbone = problems.build("backbone")
    data = problems.build("data", "all")
    loss = problems.build("loss", "all")
    tuning = problems.build("tuning")
    problems.build("reference")
    with problems:
        if config.loss is None:
            raise ConfigError("loss is null; set loss=preference")
        if config.reference is None and loss is not None and loss.needs_reference:
            raise ConfigError("the loss compares with a reference; set reference=adapter_off, or loss.alpha=0")
    optimization = None
    with problems:
        optimization = Optimization(**OmegaConf.to_container(config.optimization))
    problems.finish()
    parts = TrainParts(
        config=config,
        settings=settings,
        backbone=backbone,
        data=data,
        loss=loss,
        tuning=tuning,
        optimization=optimization,
    )
    for name, read in loss.attention_reads.items():
        layer_band(backbone.num_layers, read.layers, key=origin(config, f"loss.terms.{name}.term.layers"))
    # an adapter to go on from is read with the weights
    if config.tuning.get("adapter") is None:
        with torch.device("meta"):
            parts.pair(backbone.build(weights=False))
    return parts
