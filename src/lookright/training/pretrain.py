"""Supervised training of a small backbone from nothing: many questions behind one prefix of pictures."""

import torch
from torch import Tensor, nn

from lookright.backbones.base import Backbone
from lookright.logprobs import sum_by_response, token_logps
from lookright.packed.batch import PackedBatch
from lookright.packed.forward import decoder_rows
from lookright.training.base import TunedModule
from lookright.training.optimization import Optimization


class PretrainModule(TunedModule):
    """Mean negative log-likelihood per answer token, then over answers, of the whole model."""

    def __init__(self, backbone: Backbone, model: nn.Module, optimization: Optimization, num_steps: int) -> None:
        super().__init__(optimization, num_steps)
        self.backbone = backbone
        self.model = model

    @property
    def trained_model(self) -> nn.Module:
        """All of it."""
        return self.model

    @property
    def projector_prefix(self) -> str:
        """No group of its own: everything starts from nothing."""
        return "\0"

    def answers(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Loss in nats per token and whether greedy decoding would give the answer: float[R], bool[R]."""
        features = self.backbone.encode_images(self.model, batch.pixels)
        rows = decoder_rows(self.backbone, self.model, batch, features)
        logits = self.model.get_output_embeddings()(rows[batch.scored.rows])
        counts = batch.scored.counts()
        loss = -sum_by_response(token_logps(logits, batch.scored.targets), batch.scored) / counts
        hits = sum_by_response((logits.argmax(-1) == batch.scored.targets).float(), batch.scored)
        return loss, hits == counts

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Mean over answers."""
        del batch_idx
        loss, right = self.answers(batch)
        self.log("train/loss", loss.mean().detach(), prog_bar=True, batch_size=len(loss))
        self.log("train/accuracy", right.float().mean(), prog_bar=True, batch_size=len(loss))
        return loss.mean()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Accuracy per kind of prompt; a batch holds one answer for each prompt here."""
        del batch_idx
        loss, right = self.answers(batch)
        self.log("val/loss", loss.mean(), batch_size=len(loss))
        owners = torch.bucketize(torch.arange(len(right)), batch.first_response.cpu(), right=True) - 1
        for label in sorted(set(batch.labels)):
            mine = torch.tensor([batch.labels[owner] == label for owner in owners], device=right.device)
            self.log(f"val/{label}/accuracy", right[mine].float().mean(), batch_size=int(mine.sum()))
