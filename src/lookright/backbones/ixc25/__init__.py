"""InternLM-XComposer2.5: configuration, model, pictures, tokens, prompts, checkpoint."""

from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.ixc25.configuration import Ixc25Config, Ixc25VisionConfig
from lookright.backbones.ixc25.modeling import Ixc25ForCausalLM

__all__ = ["Ixc25Backbone", "Ixc25Config", "Ixc25ForCausalLM", "Ixc25VisionConfig"]
