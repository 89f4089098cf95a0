"""Low-rank adapters by PEFT on the decoder (LoRA, arXiv 2106.09685)."""

from torch import nn
from transformers import PreTrainedModel

from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.adapters import LoraConfig, ModulesToSaveWrapper, PeftModel, adapting, get_peft_model
from lookright.backbones.base import Backbone
from lookright.backbones.loading import with_adapter
from lookright.errors import ConfigError
from lookright.tuning.fused import fuse_adapters


class LoraTuning:
    """Adapters of rank `r`, scaled by `alpha / r`, with `dropout` on their input.

    `targets`: regular expression of linear layers, None for all linear layers of the language model;
    `train_projector` also trains the projector, which is saved with the adapter (PEFT's `modules_to_save`);
    `adapter` continues from a saved adapter folder.
    """

    def __init__(
        self,
        r: int = 128,
        alpha: int = 256,
        dropout: float = 0.05,
        targets: str | None = None,
        train_projector: bool = False,
        adapter: str | None = None,
    ) -> None:
        if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
            raise ConfigError(
                f"tuning.r={r}, alpha={alpha}, dropout={dropout}: need r >= 1, alpha > 0, dropout in [0, 1)"
            )
        check_adapter(adapter, "tuning.adapter")
        self.r, self.alpha, self.dropout, self.targets = r, alpha, dropout, targets
        self.train_projector = train_projector
        self.adapter = adapter

    def apply(self, backbone: Backbone, model: PreTrainedModel) -> nn.Module:
        """Freeze the model and put adapters in; only they (and the projector if asked) train."""
        model.requires_grad_(False)
        if self.adapter is not None:
            policy = with_adapter(model, self.adapter, "tuning.adapter", is_trainable=True)
        else:
            with adapting(model):
                policy = self._with_adapters(backbone, model)
        fuse_adapters(policy)
        saved = [part for part in policy.modules() if isinstance(part, ModulesToSaveWrapper)]
        if self.train_projector and not saved:
            raise ConfigError(
                f"tuning.train_projector=true, and tuning.adapter={self.adapter} was trained without the projector; "
                "set tuning.train_projector=false, or tuning.adapter=null"
            )
        for part in saved:
            part.modules_to_save.requires_grad_(self.train_projector)
        return policy

    def _with_adapters(self, backbone: Backbone, model: PreTrainedModel) -> PeftModel:
        try:
            return get_peft_model(model, self._config(backbone))
        except ValueError as error:
            if self.targets is None:
                raise
            raise ConfigError(
                f"tuning.targets={self.targets!r} fits no linear layer of the backbone; set a regular expression of "
                f"whole names, as {backbone.lora_targets()!r} is, or null for every layer of the language model"
            ) from error

    def _config(self, backbone: Backbone) -> LoraConfig:
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=backbone.lora_targets() if self.targets is None else self.targets,
            bias="none",
            modules_to_save=[backbone.projector_prefix.split(".")[-2]] if self.train_projector else None,
        )
