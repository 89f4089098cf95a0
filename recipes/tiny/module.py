"""Pretraining as a LightningModule: the tower learns what a token shows, then the decoder learns to answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from lookright.attention import RowRecorder
from lookright.attention.band import layer_band
from lookright.backbones.base import Backbone
from lookright.errors import ConfigError
from lookright.losses.attention import AttentionLoss
from lookright.packing.forward import decoder_rows
from lookright.packing.logprobs import sum_by_response, token_logps
from recipes.tiny.data import AskedBatch, VisionBatch
from recipes.tiny.initialization import initialise
from recipes.tiny.muon import MuonAdamW
from recipes.tiny.phases import Phase


@dataclass(slots=True, kw_only=True)
class Answers:
    """Of R questions: `losses` float[R], nats per token; `right` bool[R], whether greedy decoding gives the answer;
    `ratios` float[R], the share of the image attention on the image asked about, in [0, 1]."""

    losses: Tensor
    right: Tensor
    ratios: Tensor


@dataclass(slots=True, kw_only=True)
class Optimization:
    """Settings of the optimiser: the peak `learning_rate` of AdamW, from which Muon's follows; `warmup` is the share
    of a phase's steps that climb."""

    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"optimization.warmup={self.warmup}, learning_rate={self.learning_rate}: a share of the steps in "
                "[0, 1), and a rate above 0"
            )
        self.betas = tuple(self.betas)


class PretrainModule(LightningModule):
    """Phases of two kinds in one run, told apart by their batches.

    Vision: cross-entropy of a linear head on every projected picture token, over the groups of classes.
    Language: mean negative log-likelihood per answer token, then over answers; the tower rests. A phase with an
    `attention_weight` adds the hinge of `losses.attention` on the row that predicts each answer's first token.
    """

    def __init__(
        self,
        backbone: Backbone,
        model: nn.Module,
        group_sizes: list[int],
        optimization: Optimization,
        phases: Sequence[Phase],
    ) -> None:
        super().__init__()
        self.backbone, self.model, self.optimization = backbone, model, optimization
        self.group_sizes, self.phases = group_sizes, phases
        width = model.config.get_text_config().hidden_size
        self._tower_rests = False
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(group_sizes)))

    def on_fit_start(self) -> None:
        """Lightning keeps the mode that it finds."""
        self.train()

    def configure_optimizers(self) -> dict[str, Any]:
        """Muon for the tower's matrices, AdamW for the rest; each phase has its own warm-up and decay."""
        options = self.optimization
        tower = {
            id(module.weight)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(self.backbone.vision_prefix)
        }
        parameters = list(self.parameters())
        optimizer = MuonAdamW(
            [parameter for parameter in parameters if id(parameter) not in tower],
            [parameter for parameter in parameters if id(parameter) in tower],
            lr=options.learning_rate,
            betas=options.betas,
            weight_decay=options.weight_decay,
        )
        schedule = LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def vision_loss(self, batch: VisionBatch) -> tuple[Tensor, Tensor]:
        """Loss and share of right classes over all labelled tokens."""
        tokens = torch.cat(self.backbone.encode_images(self.model, batch.pixels))
        groups = self.head(tokens).split(self.group_sizes, dim=1)
        known = batch.labels >= 0
        losses = [
            F.cross_entropy(logits, batch.labels[:, number], ignore_index=-100) if known[:, number].any() else 0.0
            for number, logits in enumerate(groups)
        ]
        right = torch.stack([logits.argmax(1) == batch.labels[:, number] for number, logits in enumerate(groups)], 1)
        return sum(losses), right[known].float().mean()

    def answers(self, batch: AskedBatch) -> Answers:
        """The questions of a batch, answered under teacher forcing."""
        packed = batch.packed
        features = self.backbone.encode_images(self.model, packed.pixels)
        recorder = RowRecorder(layer_band(self.backbone.num_layers), batch.regions)
        rows = decoder_rows(self.backbone, self.model, packed, features, recorder)
        logits = self.model.get_output_embeddings()(rows[packed.scored.rows])
        counts = packed.scored.counts()
        losses = -sum_by_response(token_logps(logits, packed.scored.targets), packed.scored) / counts
        hits = sum_by_response((logits.argmax(-1) == packed.scored.targets).float(), packed.scored)
        return Answers(losses=losses, right=hits == counts, ratios=_ratios(recorder.stacked(), batch))

    def training_step(self, batch: VisionBatch | AskedBatch, batch_idx: int) -> Tensor:
        """One step of either phase."""
        if isinstance(batch, VisionBatch):
            loss, accuracy = self.vision_loss(batch)
            size = len(batch.pixels)
        else:
            self._rest_tower(renew_projector=batch_idx == self._first_language_step())
            answers = self.answers(batch)
            size = len(answers.losses)
            loss, accuracy = answers.losses.mean(), answers.right.float().mean()
            weight = self._phase_at(batch_idx)[0].attention_weight
            if weight:
                loss = loss + weight * (AttentionLoss().threshold - answers.ratios).relu().mean()
            self.log("train/attention_ratio", answers.ratios.mean().detach(), batch_size=size)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log("train/accuracy", accuracy, prog_bar=True, batch_size=size)
        return loss

    def validation_step(self, batch: AskedBatch, batch_idx: int) -> None:
        """Accuracy and attention ratio per format; each prompt has one question here."""
        del batch_idx
        answers = self.answers(batch)
        self.log("val/loss", answers.losses.mean(), batch_size=len(answers.losses))
        labels = batch.packed.labels
        for label in sorted(set(labels)):
            mine = torch.tensor([name == label for name in labels], device=answers.right.device)
            size = int(mine.sum())
            self.log(f"val/{label}/accuracy", answers.right[mine].float().mean(), batch_size=size)
            self.log(f"val/{label}/attention_ratio", answers.ratios[mine].mean(), batch_size=size)

    def _rest_tower(self, *, renew_projector: bool) -> None:
        """Once, when a language batch comes: the tower freezes. With the first of all the projector starts anew.

        What it learned was to tell classes apart for the head, in a space that the decoder never saw.
        """
        if self._tower_rests:
            return
        self._tower_rests = True
        for name, parameter in self.model.named_parameters():
            if name.startswith(self.backbone.vision_prefix):
                parameter.requires_grad_(False)
        for name, module in self.model.named_modules():
            if renew_projector and f"{name}." == self.backbone.projector_prefix:
                initialise(module, self.backbone.num_layers)

    def _first_language_step(self) -> int:
        """Steps before the first language phase."""
        steps = 0
        for phase in self.phases:
            if phase.kind == "language":
                break
            steps += phase.steps
        return steps

    def _phase_at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step, and the step's number in it; after the last step the last phase's end."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return phase, phase.steps

    def _factor(self, step: int) -> float:
        """Share of the peak rate: warm-up and cosine decay to a tenth, in each phase for itself."""
        phase, place = self._phase_at(step)
        warmup = max(1, math.ceil(self.optimization.warmup * phase.steps))
        if place < warmup:
            return phase.rate * (place + 1) / warmup
        progress = min(1.0, (place - warmup) / max(1, phase.steps - warmup))
        return phase.rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))


def _ratios(masses: Tensor, batch: AskedBatch) -> Tensor:
    """Attention ratio of each question, in the row that predicts its answer's first token.

    float[layers, sum S, C + 1] -> float[R], a mean over the layers.
    """
    scored = batch.packed.scored
    first = masses[:, scored.rows[scored.firsts()]]
    on_target = first.gather(2, batch.targets.expand(len(first), -1)[..., None])[..., 0]
    return (on_target / first[..., -1]).mean(0)
