"""Preference tuning as a LightningModule over a policy/reference pair."""

import torch
from torch import Tensor, nn

from lookright.losses.band import layer_band
from lookright.losses.composite import CompositeLoss
from lookright.packed.batch import PackedBatch
from lookright.reference.base import ModelPair
from lookright.training.base import TunedModule
from lookright.training.optimization import Optimization
from lookright.training.scores import pair_scores


class PreferenceModule(TunedModule):
    """Trains the policy of `pair` with `loss`; metrics are means over pairs.

    The reference runs only if a term of the loss needs it; attention is read only if a term needs it, and
    always in validation, where it is reported per format.
    """

    def __init__(
        self, pair: ModelPair, loss: CompositeLoss, optimization: Optimization, num_steps: int
    ) -> None:
        super().__init__(optimization, num_steps)
        self.pair = pair
        self.loss = loss
        self.ratio_layers = layer_band(pair.backbone.num_layers, loss.attention_layers)

    @property
    def trained_model(self) -> nn.Module:
        """The policy without its PEFT wrapper."""
        return self.pair.model

    @property
    def projector_prefix(self) -> str:
        """From the backbone."""
        return self.pair.backbone.projector_prefix

    def losses(self, batch: PackedBatch, read_attention: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per pair and metrics per pair: float[P], name -> float[P]."""
        features = self.pair.image_features(batch)
        output = self.pair.score(batch, features, self.ratio_layers if read_attention else ())
        reference = self.pair.reference_logps(batch, features) if self.loss.needs_reference else None
        scores = pair_scores(batch, output, reference)
        loss, terms = self.loss(scores)
        with torch.no_grad():
            metrics = terms | self.loss.metrics(scores)
            if output.attention_ratio is not None:
                metrics["attention_ratio"] = output.attention_ratio.detach()
        return loss, metrics

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Mean over the pairs of the batch."""
        del batch_idx
        loss, metrics = self.losses(batch, read_attention=self.loss.needs_attention)
        size = batch.num_prompts
        self.log("train/loss", loss.mean().detach(), prog_bar=True, batch_size=size)
        for name, values in metrics.items():
            shown = name in ("reward_margin", "attention_ratio")
            self.log(f"train/{name}", values.nanmean(), prog_bar=shown, batch_size=size)
        return loss.mean()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Everything, over all held-out pairs and per format."""
        del batch_idx
        loss, metrics = self.losses(batch, read_attention=True)
        metrics = {"loss": loss.detach()} | metrics
        for name, values in metrics.items():
            self._log_present(f"val/{name}", values)
            for label in sorted(set(batch.labels)):
                chosen = torch.tensor([x == label for x in batch.labels], device=values.device)
                if label:
                    self._log_present(f"val/{label}/{name}", values[chosen])

    def _log_present(self, name: str, values: Tensor) -> None:
        """Log the mean of the values that exist, weighted by their number over the epoch."""
        present = values[~values.isnan()]
        if len(present):
            self.log(name, present.mean(), batch_size=len(present), sync_dist=True)
