"""The base model with the policy's adapter switched off: no second copy in memory."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lookright.backbones.adapters import ModulesToSaveWrapper, PeftModel
from lookright.errors import ConfigError
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import packed_forward
from lookright.reference.base import ModelPair, Reference


class AdapterOff(Reference):
    """Fits a policy with adapters whose reference is the model without them."""

    def attach(self, pair: ModelPair) -> None:
        """Raise ConfigError for a policy without adapters, or with a projector that trains."""
        if not isinstance(pair.policy, PeftModel):
            raise ConfigError("reference=adapter_off needs adapters; set tuning=lora, or reference=frozen_copy")
        trained = [name for name, p in pair.policy.named_parameters() if p.requires_grad and "lora_" not in name]
        if trained:
            raise ConfigError(
                f"reference=adapter_off cannot undo the training of {trained[0]} and {len(trained) - 1} more; "
                "set tuning.train_projector=false, or reference=frozen_copy"
            )

    def describe(self) -> str:
        """For the log."""
        return "reference: the base model, the policy's adapter switched off"

    def logps(self, pair: ModelPair, batch: PackedBatch, features: Sequence[Tensor]) -> Tensor:
        """float32[R]; adapter dropout plays no part since the adapters are out."""
        policy: Any = pair.policy
        projectors = [part for part in policy.modules() if isinstance(part, ModulesToSaveWrapper)]
        with policy.disable_adapter():
            if projectors:
                # the adapter brings a projector of its own, which is off too
                features = pair.backbone.encode_images(pair.model, batch.pixels)
            logps = packed_forward(pair.backbone, pair.model, batch, features).logps
        for part in projectors:
            # PEFT has them train once they are on again
            part.modules_to_save.requires_grad_(False)
        return logps
