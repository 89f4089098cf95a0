"""`task=pretrain`: a small backbone from nothing."""

from pathlib import Path

from lightning import LightningDataModule
from omegaconf import DictConfig

from lookright.backbones.base import Backbone
from lookright.commands.tasks import RunParts, Task
from lookright.errors import ConfigError
from lookright.pretraining.initialization import initialise
from lookright.pretraining.module import PretrainModule


class PretrainTask(Task):
    """Fresh weights, trained phase by phase."""

    def prepare(self, config: DictConfig, backbone: Backbone, data: LightningDataModule) -> None:
        """Refuse what pretraining has no use for, and index the sources."""
        if config.loss is not None or config.reference is not None:
            raise ConfigError("task=pretrain takes no loss and no reference; set loss=none reference=none")
        data.prepare(backbone)

    def module(self, parts: RunParts) -> PretrainModule:
        """The model, drawn anew."""
        model = parts.backbone.build(weights=False, dtype=parts.dtype)
        initialise(model, parts.backbone.num_layers)
        return PretrainModule(parts.backbone, model, parts.data.labels.sizes, parts.optimization, parts.data.phases)

    def save(self, module: PretrainModule, folder: Path) -> Path:
        """`model/`, a folder that `backbone.path` takes."""
        module.backbone.save_pretrained(module.model, folder / "model")
        return folder / "model"
