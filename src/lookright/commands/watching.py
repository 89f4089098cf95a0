"""`eval.every`: a few questions of the test sets are answered while a run trains, and nothing else of it changes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from lookright.answering.answerer import Answerer
from lookright.answering.decoder import Decoder
from lookright.common.streams import batches
from lookright.evaluation.metric import Metrics
from lookright.evaluation.predictions import prediction_line
from lookright.evaluation.questions import Questions
from lookright.records.pictures import Pictures
from lookright.reports.sampling import StratifiedSample
from lookright.training.preference import PreferenceModule
from lookright.types import Prompt

VALIDATION = "validation"
"""The value of `eval.every` that goes with each validation of the held-out pairs."""


class EvaluateWhileTraining(Callback):
    """Logs `eval/METRIC/GROUP` of at most `num_questions` questions, at each validation or every so many steps.

    They are the same each time, drawn evenly over formats by a hash of the id. Each rank answers whole batches, in
    turn, so what is measured does not depend on the number of ranks. Random numbers and the modes of the modules are
    put back: the training's numbers are bit for bit those of a run without.
    """

    def __init__(
        self,
        questions: Questions,
        decoder: Decoder,
        metrics: Metrics,
        *,
        every: int | str,
        num_questions: int,
        batch_size: int,
        ratio_layer: int,
        ratio_rows: str,
    ) -> None:
        self.questions, self.decoder, self.metrics = questions, decoder, metrics
        self.every, self.num_questions, self.batch_size = every, num_questions, batch_size
        self.ratio_layer, self.ratio_rows = ratio_layer, ratio_rows
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on has measured the step that it goes on from."""
        del pl_module
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure behind every so many optimiser steps, in a row of its own at the step that was taken."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if isinstance(self.every, str) or step == self._last_step:
            return
        self._last_step = step
        if step % self.every == 0:
            found = self._measured(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics(found, step - 1)
            for name, value in found.items():
                pl_module.log(name, value, on_step=True, logger=False, batch_size=1)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure in the row of the validation, before callbacks look at what they monitor."""
        if self.every == VALIDATION and not trainer.sanity_checking:
            for name, value in self._measured(trainer, pl_module).items():
                # ranks agree already; without sync Lightning would warn
                pl_module.log(name, value, batch_size=1, sync_dist=True)

    def _measured(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        assert isinstance(module, PreferenceModule)
        with as_it_was(module.pair.policy), trainer.precision_plugin.forward_context(), torch.no_grad():
            own = self.answer(module, trainer.global_rank, trainer.world_size)
        parts = [own]
        if trainer.world_size > 1:
            parts = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, own)
        lines = {key: line for part in parts for key, line in part.items()}
        return logged_numbers(self.metrics, [lines[key] for key in sorted(lines)])

    def answer(self, module: PreferenceModule, rank: int = 0, num_ranks: int = 1) -> dict[str, dict[str, Any]]:
        """Return lines of predictions by id, of this rank's batches."""
        answerer = Answerer(
            backbone=module.pair.backbone,
            policy=module.pair.policy,
            decoder=self.decoder,
            ratio_layer=self.ratio_layer,
            batch_size=self.batch_size,
            ratio_rows=self.ratio_rows,
            unreadable=self.questions.tell,
        )
        metrics, lines = deepcopy(self.metrics), {}
        for pictures, prompts in self._drawn():
            own = list(batches(prompts, self.batch_size))[rank::num_ranks]
            for item in answerer.answer_batches(own, pictures):
                lines[item.prompt.id] = prediction_line(item, metrics)
        return lines

    def _drawn(self) -> Iterator[tuple[Pictures, list[Prompt]]]:
        """The questions, by file and in their order."""
        drawn: StratifiedSample[str] = StratifiedSample(self.num_questions)
        for prompt in self.questions.prompts:
            drawn.add((prompt.format,), prompt.id, prompt.id)
        kept = set(drawn.take())
        for pictures, prompts in self.questions.groups():
            yield pictures, [prompt for prompt in prompts if prompt.id in kept]


def logged_numbers(metrics: Metrics, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return `eval/METRIC/GROUP` of all values that have an interval."""
    counted = deepcopy(metrics)
    for line in lines:
        counted.add(line)
    result = counted.result()
    keys = dict.fromkeys(column.key for column in counted.columns if column.field == "value")
    return {
        f"eval/{key}/{group}": float(entry["value"]) for key in keys for group, entry in result.get(key, {}).items()
    }


@contextmanager
def as_it_was(policy: nn.Module) -> Iterator[None]:
    """Inside, a policy may answer; random numbers, and which modules train, are put back."""
    modes = {module: module.training for module in policy.modules()}
    devices = sorted({one.device.index for one in policy.parameters() if one.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
