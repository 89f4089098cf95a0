"""Policy and reference as one object: who answers for the reference is the only thing that varies."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import PackedOutput, RatioRead, score_responses


@dataclass(slots=True, kw_only=True)
class Preparation:
    """What a reference may use before the first step.

    `loaders` makes loaders over all pairs of this rank, each pair once, with keys; `device` and `context` are
    what a forward pass of the run uses; `precision` is Lightning's name of it; `num_ranks` prepare at once, of
    which one shows its progress.
    """

    loaders: Callable[[], list[DataLoader[Any]]]
    device: torch.device
    precision: str = "32-true"
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    num_ranks: int = 1
    show_progress: bool = True


class Reference(ABC):
    """Gives the reference log-probabilities of a batch."""

    copies_policy = False
    """Whether this kind holds a second model in memory."""

    def prepare(self, pair: "ModelPair", preparation: Preparation) -> None:
        """Called once before the first step, and before a checkpoint is read; here nothing is to be done."""
        del pair, preparation

    @abstractmethod
    def attach(self, pair: "ModelPair") -> None:
        """Called once with the built pair; raises ConfigError where this kind does not fit the policy."""

    @abstractmethod
    def describe(self) -> str:
        """One line for the log: what the reference is."""

    @abstractmethod
    def logps(self, pair: "ModelPair", batch: PackedBatch, features: Sequence[Tensor]) -> Tensor:
        """Summed log-probability of every response in nats: float32[R], without gradient."""


class ModelPair(nn.Module):
    """A policy that trains and the reference that it is held against.

    Frozen parts stay in evaluation mode while the policy trains: no dropout of the base model ever makes the
    policy differ from its reference.
    """

    def __init__(self, backbone: Backbone, policy: nn.Module, reference: Reference | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.policy = policy
        self.reference = reference
        self.features_train = any(
            parameter.requires_grad
            for name, parameter in self.model.named_parameters()
            if name.startswith((backbone.vision_prefix, backbone.projector_prefix))
        )
        if reference is not None:
            reference.attach(self)

    @property
    def model(self) -> PreTrainedModel:
        """The policy without its PEFT wrapper."""
        return bare_model(self.policy)

    def train(self, mode: bool = True) -> "ModelPair":
        """Set training mode where something trains: adapter dropout and checkpointed layers; the rest evaluates."""
        self.training = mode
        self.policy.eval()
        if mode:
            for module in self.policy.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True
                for dropout in getattr(module, "lora_dropout", {}).values():
                    dropout.train()
        return self

    def image_features(self, batch: PackedBatch) -> list[Tensor]:
        """Projected pictures, for every pass over this batch; with gradient only where tower or projector trains."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.features_train):
            return self.backbone.encode_images(self.model, batch.pixels)

    def score(self, batch: PackedBatch, features: Sequence[Tensor], reads: Sequence[RatioRead] = ()) -> PackedOutput:
        """Run the policy's pass, with the attention ratios that `reads` name."""
        return score_responses(self.backbone, self.model, batch, features, reads)

    def reference_logps(self, batch: PackedBatch, features: Sequence[Tensor]) -> Tensor:
        """The reference's pass: float32[R]."""
        assert self.reference is not None, "a loss that needs a reference was built without one"
        with torch.no_grad():
            return self.reference.logps(self, batch, features)
