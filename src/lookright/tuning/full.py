"""Training the weights themselves."""

from transformers import PreTrainedModel

from lookright.backbones.base import Backbone
from lookright.errors import ConfigError


class FullTuning:
    """The decoder trains; `train_projector` and `train_vision` add the projector and the vision tower."""

    def __init__(self, train_projector: bool = False, train_vision: bool = False) -> None:
        self.train_projector = train_projector
        self.train_vision = train_vision

    def apply(self, backbone: Backbone, model: PreTrainedModel) -> PreTrainedModel:
        """Mark what trains; the model is returned as it is. Raises ConfigError for weights in 4 bits."""
        if backbone.quantization is not None:
            raise ConfigError(
                f"tuning=full cannot train weights in {backbone.quantization}; set tuning=lora, or "
                "backbone.quantization=null"
            )
        for name, parameter in model.named_parameters():
            if name.startswith(backbone.projector_prefix):
                parameter.requires_grad_(self.train_projector)
            elif name.startswith(backbone.vision_prefix):
                parameter.requires_grad_(self.train_vision)
            else:
                parameter.requires_grad_(True)
        return model
