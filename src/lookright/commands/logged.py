"""What a run tells its loggers: who it is, its config, held-out pairs at each validation, what it measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer
from lookright.answering.decoder import Decoder
from lookright.answering.heat import attention_heat
from lookright.attention.band import half_depth
from lookright.config.check import Problems
from lookright.config.swept import place_in_sweep
from lookright.errors import ConfigError, RecordError
from lookright.records.pictures import Pictures
from lookright.reports.sampling import StratifiedSample
from lookright.reports.strip import heat_strip
from lookright.training.datamodule import PairDataset
from lookright.training.loggers import LoggedExample, RunCSVLogger, RunLogger
from lookright.training.preference import PreferenceModule
from lookright.training.sharded import LayerwiseFSDP
from lookright.types import Preference, Prompt

ANSWER_TOKENS = 64
"""Of an answer that is logged; a longer one is cut."""
NUMBERS = ("attention_ratio", "even_ratio", "logps_margin", "reference_logps_margin")
"""Metrics of a held-out pair that are logged beside it."""


def build_loggers(problems: Problems) -> list[Logger]:
    """The loggers of a config, without those that are null or that `problems` tells of."""
    nodes = problems.config.logger or {}
    found = []
    for name in (name for name, node in nodes.items() if node is not None):
        with problems:
            if "_target_" in nodes:
                raise ConfigError(
                    "logger._target_: a file of the group has one key, its name, with _target_ below it, so that "
                    "several compose: logger=[wandb,tensorboard]"
                )
            one = problems.build(f"logger.{name}", "all")
            if one is not None and not isinstance(one, Logger):
                raise ConfigError(f"logger.{name}._target_={nodes[name]['_target_']} is no Lightning logger")
            found += [] if one is None else [one]
    place = place_in_sweep()
    folder = Path(problems.config.output)
    for logger in (one for one in found if isinstance(one, RunLogger)):
        logger.name_run((place and place.name) or folder.name, None if place is None else Path(place.folder).name)
    return found


def tell_config(loggers: Sequence[Logger], config: DictConfig) -> None:
    """Give all of them the config, as plain values; W&B begins its run here."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for logger in loggers:
        logger.log_hyperparams(plain)


def tell_results(loggers: Sequence[Logger], measured: Mapping[str, float], step: int) -> None:
    """What the test sets said of the policy; metrics.csv is about the training alone."""
    for logger in loggers:
        if not isinstance(logger, RunCSVLogger):
            logger.log_metrics({f"eval/{name}": value for name, value in measured.items()}, step)


def example_callbacks(loggers: Sequence[Logger], val_set: PairDataset) -> list[Callback]:
    """What logs held-out pairs; nothing where no logger wants any."""
    wanting = [one for one in loggers if isinstance(one, RunLogger) and one.examples > 0]
    return [LogExamples(wanting, val_set)] if wanting and len(val_set) else []


class LogExamples(Callback):
    """Logs a few held-out pairs at each validation: what the policy answers, and where it looks meanwhile.

    They are the same ones each time, drawn evenly over formats by a hash of the id, as many as a logger wants. The
    first process answers; the random numbers of the training are not touched.
    """

    def __init__(self, loggers: Sequence[RunLogger], val_set: PairDataset) -> None:
        self.loggers, self.val_set = loggers, val_set

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where no examples will come."""
        del pl_module
        if isinstance(trainer.strategy, LayerwiseFSDP):
            rank_zero_warn("trainer=fsdp: no process has the whole policy, so that no examples are logged")
            self.loggers = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer and log, in the row of the step that was validated."""
        if not self.loggers or trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PreferenceModule)
        with trainer.precision_plugin.forward_context():
            found = list(self._examples(pl_module))
        for logger in self.loggers:
            logger.log_examples(found[: logger.examples], max(trainer.global_step - 1, 0))

    def _examples(self, module: PreferenceModule) -> Iterator[LoggedExample]:
        drawn: StratifiedSample[tuple[Preference, Pictures]] = StratifiedSample(
            max(logger.examples for logger in self.loggers)
        )
        for record, pictures in zip(self.val_set.records, self.val_set.pictures, strict=True):
            drawn.add((record.format,), record.id, (record, pictures))
        pair = module.pair
        answerer = Answerer(
            backbone=pair.backbone,
            policy=pair.policy,
            decoder=Decoder(ANSWER_TOKENS),
            ratio_layer=half_depth(pair.backbone.num_layers),
            batch_size=1,
        )
        for record, pictures in drawn.take():
            numbers = module.held_out[record.id][1] if record.id in module.held_out else {}
            try:
                yield _example(answerer, record, pictures, numbers)
            except RecordError as error:
                rank_zero_warn(f"record {record.id} is not logged: {error}")


def _example(answerer: Answerer, record: Preference, pictures: Pictures, numbers: Mapping[str, float]) -> LoggedExample:
    """Raises RecordError for a picture that broke since it was checked."""
    prompt = Prompt(
        id=record.id,
        images=record.images,
        prompt=record.prompt,
        ground_truth=record.chosen,
        format=record.format or "",
        target=record.target,
        regions=record.regions,
    )
    (item,) = answerer.answer([prompt], pictures)
    return LoggedExample(
        id=record.id,
        format=prompt.format,
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        answer=item.answer.text,
        image=heat_strip(record, pictures, attention_heat(answerer, prompt, item.answer.token_ids, pictures)),
        numbers={name: numbers.get(name) for name in NUMBERS},
    )
