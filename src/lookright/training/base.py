"""What every LightningModule of the project shares: which parameters are saved, and how they are stepped."""

from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from lookright.backbones.base import Backbone
from lookright.training.optimization import Optimization


class TunedModule(LightningModule):
    """Saves what trains and nothing else, and counts its schedule from a known number of steps."""

    strict_loading = False
    backbone: Backbone
    """The family of the model that trains."""

    def __init__(self, optimization: Optimization, num_steps: int) -> None:
        super().__init__()
        self.optimization = optimization
        self.num_steps = num_steps

    @property
    def trained_model(self) -> nn.Module:
        """The bare model whose parameters step."""
        raise NotImplementedError

    @property
    def projector_prefix(self) -> str:
        """Start of the projector's parameter names in `trained_model`."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """Lightning keeps the mode that it finds, and weights read from disk arrive in evaluation mode."""
        self.train()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a schedule by step."""
        optimizer, schedule = self.optimization.build(self.trained_model, self.projector_prefix, self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Only parameters that train: the frozen base model is not in a checkpoint."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}
