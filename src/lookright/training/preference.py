"""Preference tuning as a LightningModule over a policy/reference pair."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lookright.attention.band import layer_band
from lookright.losses.base import AttentionRead, PairScores, SideScores
from lookright.losses.composite import CompositeLoss, pair_scores
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import RatioRead
from lookright.reference.base import ModelPair, Preparation
from lookright.training.datamodule import PreferenceData
from lookright.training.optimization import Optimization
from lookright.training.step_means import StepMeans
from lookright.types import Preference

HeldOut = tuple[str, dict[str, float]]
"""Format and metrics of one pair."""


class PreferenceModule(LightningModule):
    """Trains the policy of `pair` with `loss`; metrics are means over preference pairs.

    The reference runs only if a term of the loss reads it. Attention is read where the terms say, and in validation
    also where none does, since the ratio is reported per format. A checkpoint holds what trains and nothing else; the
    schedule is counted from a known number of steps.
    """

    strict_loading = False

    def __init__(self, pair: ModelPair, loss: CompositeLoss, optimization: Optimization, num_steps: int) -> None:
        super().__init__()
        self.pair = pair
        self.loss = loss
        self.optimization = optimization
        self.num_steps = num_steps
        self._held_out: dict[str, HeldOut] = {}
        names = [name.removeprefix("train/") for name in logged_metrics(loss, []) if name != "train/learning_rate"]
        self._step = StepMeans(names)
        self.held_out: dict[str, HeldOut] = {}
        """Every held-out pair by id, as the last validation found it."""
        self.ratio_reads = {
            read: RatioRead(layers=tuple(layer_band(pair.backbone.num_layers, read.layers)), rows=read.positions)
            for read in loss.attention_reads.values() or [AttentionRead()]
        }
        """Where attention is read, as the terms say it, and as layers of this model; terms may share one."""

    @property
    def trained_model(self) -> nn.Module:
        """The policy without its PEFT wrapper."""
        return self.pair.model

    def on_fit_start(self) -> None:
        """Lightning keeps the mode that it finds, and weights read from disk arrive in evaluation mode."""
        self.train()

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser and a schedule by step."""
        prefix = self.pair.backbone.projector_prefix
        optimizer, schedule = self.optimization.build(self.trained_model, prefix, self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Only parameters that train: the frozen base model is not in a checkpoint."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def score_batch(self, batch: PackedBatch, read_attention: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics of each preference pair: float[P], name -> float[P]."""
        return self._judged(batch, self._scores(batch, read_attention))

    def _scores(self, batch: PackedBatch, read_attention: bool) -> PairScores:
        """What both models make of the pairs."""
        features = self.pair.image_features(batch)
        # first, so that its intermediate values do not come on top of what the policy's pass keeps
        reference = self.pair.reference_logps(batch, features) if self.loss.needs_reference else None
        reads = self.ratio_reads if read_attention else {}
        output = self.pair.score(batch, features, list(reads.values()))
        return pair_scores(batch, output, reference, list(reads))

    def _judged(self, batch: PackedBatch, scores: PairScores) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of what both models made of the pairs."""
        loss, terms = self.loss(scores)
        with torch.no_grad():
            metrics = terms | self.loss.metrics(scores)
            if scores.attention_ratio is not None:
                metrics["attention_ratio"] = scores.attention_ratio.detach()
                metrics["even_ratio"] = batch.even_ratio
            for name, read in list(self.loss.attention_reads.items())[1:]:
                metrics[f"attention_ratio_{name}"] = scores.attention_ratios[read].detach()
        return loss, metrics

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Mean over the pairs of the batch; 0, attached to everything that trains, where none is left."""
        del batch_idx
        if batch.num_prompts == 0:
            # ranks wait for each other's gradients
            trained = (parameter for parameter in self.parameters() if parameter.requires_grad)
            return torch.stack([parameter.flatten()[:0].sum() for parameter in trained]).sum()
        loss, metrics = self.score_batch(batch, read_attention=self.loss.needs_attention)
        self._step.add({"loss": loss} | metrics)
        return loss.mean()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the step. Step nothing where no pair was left: weight decay and momentum would move the weights.

        Of several ranks the others may have pairs, so all step.
        """
        several = self.trainer.world_size > 1
        if self._step.num_pairs == 0 and not several:
            optimizer.zero_grad(set_to_none=True)
        reduce = partial(self.trainer.strategy.reduce, reduce_op="sum") if several else None
        for name, value in self._step.means(reduce, self.device).items():
            shown = name in ("loss", "reward_margin", "attention_ratio")
            self.log(f"train/{name}", value, prog_bar=shown, batch_size=1)
        self._step.clear()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Note everything of every held-out pair."""
        del batch_idx
        if batch.num_prompts == 0:
            return
        scores = self._scores(batch, read_attention=True)
        loss, metrics = self._judged(batch, scores)
        metrics = {"loss": loss.detach()} | metrics | scores.logps_margins()
        columns = {name: values.tolist() for name, values in metrics.items()}
        for place, (record, label) in enumerate(zip(batch.ids, batch.labels, strict=True)):
            self._held_out[record] = (label, {name: values[place] for name, values in columns.items()})

    def on_validation_epoch_end(self) -> None:
        """Means over all held-out pairs of all ranks, each pair once, and per format."""
        parts = [self._held_out]
        if self.trainer.world_size > 1:
            parts = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._held_out)
        self.held_out = {record: entry for part in parts for record, entry in part.items()}
        for name, value in held_out_means(self.held_out).items():
            # the ranks agree on names and values already; without sync Lightning would warn
            self.log(name, value, batch_size=1, sync_dist=True)
        self._held_out = {}


def held_out_means(pairs: Mapping[str, HeldOut]) -> dict[str, float]:
    """`val/<metric>` and `val/<format>/<metric>`: means of the values that exist (NaN: no target, say)."""
    values: dict[str, list[float]] = {}
    for label, metrics in pairs.values():
        for name, value in metrics.items():
            if not math.isnan(value):
                values.setdefault(f"val/{name}", []).append(value)
                if label:
                    values.setdefault(f"val/{label}/{name}", []).append(value)
    return {name: math.fsum(values[name]) / len(values[name]) for name in sorted(values)}


def logged_metrics(loss: CompositeLoss, held_out: Sequence[Preference]) -> list[str]:
    """Names of what a run logs under `train/` and, of the held-out pairs, under `val/`."""
    side = SideScores(logps=torch.full((1,), -1.0), num_tokens=torch.ones(1, dtype=torch.int))
    rejected = SideScores(logps=torch.full((1, 1), -1.0), num_tokens=torch.ones(1, 1, dtype=torch.int))
    scores = PairScores(
        policy_chosen=side,
        policy_rejected=rejected,
        reference_chosen=side.logps if loss.needs_reference else None,
        reference_rejected=rejected.logps if loss.needs_reference else None,
        attention_ratio=torch.full((1,), 0.5) if loss.needs_attention else None,
        attention_ratios={read: torch.full((1,), 0.5) for read in loss.attention_reads.values()},
    )
    own = {"loss", *loss(scores)[1], *loss.metrics(scores)}
    looks = {"attention_ratio", "even_ratio"} | {f"attention_ratio_{name}" for name in list(loss.attention_reads)[1:]}
    train = own | {"learning_rate"} | (looks if loss.needs_attention else set())
    names = [f"train/{name}" for name in train]
    for label in dict.fromkeys(["", *(record.format for record in held_out if record.format)]):
        pairs = [record for record in held_out if label in ("", record.format)]
        found = own | set(scores.logps_margins()) | (looks if any(one.target is not None for one in pairs) else set())
        names += [f"val/{label}/{name}" if label else f"val/{name}" for name in found if pairs]
    return sorted(names)


def prepare_reference(module: PreferenceModule, data: PreferenceData, trainer: Trainer) -> None:
    """Let the reference of a pair compute what it needs, on the run's device and in its precision."""
    if module.pair.reference is None:
        return
    strategy = trainer.strategy
    # a process that starts the others itself is alone here, and does the work of all
    environment = getattr(strategy, "cluster_environment", None)
    alone = environment is None or not environment.creates_processes_externally
    rank, num_ranks = (0, 1) if alone else (trainer.global_rank, trainer.world_size)
    preparation = Preparation(
        loaders=lambda: data.scoring_dataloaders(rank, num_ranks),
        device=strategy.root_device,
        precision=str(trainer.precision),
        context=strategy.precision_plugin.forward_context,
        num_ranks=num_ranks,
        show_progress=trainer.is_global_zero,
    )
    module.pair.reference.prepare(strategy.precision_plugin.convert_module(module).pair, preparation)
