"""A frozen copy of the policy as it was when training began."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from lookright.backbones.loading import bare_model
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import packed_forward
from lookright.reference.base import ModelPair, Reference


class FrozenCopy(Reference):
    """Fits full tuning, and tuning that goes on from an adapter: the copy keeps that adapter.

    The copy has its own vision tower and projector, since the policy's may train.
    """

    copies_policy = True

    def __init__(self) -> None:
        # in a list, so that the copy is no submodule: it is neither trained, saved nor counted
        self._copy: list[nn.Module] = []

    def attach(self, pair: ModelPair) -> None:
        """Copy the policy."""
        self._copy = [copy.deepcopy(pair.policy).eval().requires_grad_(False)]
        self._shares_features = not pair.features_train

    def describe(self) -> str:
        """For the log."""
        return "reference: a frozen copy of the policy as it starts"

    def logps(self, pair: ModelPair, batch: PackedBatch, features: Sequence[Tensor]) -> Tensor:
        """float32[R]."""
        model = bare_model(self._copy[0].to(batch.input_ids.device))
        if not self._shares_features:
            features = pair.backbone.encode_images(model, batch.pixels)
        return packed_forward(pair.backbone, model, batch, features).logps
