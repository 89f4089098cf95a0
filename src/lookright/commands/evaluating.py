"""What `train.py eval=` does when the training has ended: the tuned model answers test sets in the same job."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lookright.answering.answerer import Answerer
from lookright.answering.decoder import Decoder
from lookright.attention.band import one_layer
from lookright.backbones.base import Backbone
from lookright.commands.measuring import ANSWERS_FILE, headline, measure, predict
from lookright.commands.watching import VALIDATION, EvaluateWhileTraining
from lookright.common.files import write_whole
from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE
from lookright.composing.workspace import Workspace
from lookright.config.check import nearest_of
from lookright.config.made_by import describe_data, made_by
from lookright.config.references import resolved
from lookright.config.runs import CONFIG_FILE, EVAL_FOLDER, OBJECTIVE
from lookright.errors import ConfigError, LookRightError, ParameterError
from lookright.evaluation.groups import groups_of
from lookright.evaluation.judge import JUDGE_FILE, JUDGEMENTS_FILE
from lookright.evaluation.metric import Metric, Metrics
from lookright.evaluation.overlap import run_config_of, trained_on_warning, tuned_on_warning
from lookright.evaluation.questions import Questions
from lookright.packing.logprobs import check_rows

log = logging.getLogger(__name__)

NOT_OF_INFER = ("_target_", "objective", "every", "every_questions")
"""Keys that `infer.py` has no use for."""


class Evaluation:
    """Test sets, and how the tuned model answers them; the keys are those of `conf/eval/test_sets.yaml`.

    `every` measures at most `every_questions` of them during training too, every so many steps or at each validation.
    `objective` is `METRIC/GROUP` of `metrics.json`; None is accuracy with several images, or with one where the test
    sets have no others.
    """

    def __init__(
        self,
        data: Questions,
        decode: Decoder,
        metrics: Mapping[str, Metric | None],
        batch_size: int = 16,
        ratio_layer: int | None = None,
        ratio_rows: str = "response",
        overlays: int = 12,
        objective: str | None = None,
        every: int | str | None = None,
        every_questions: int = 200,
    ) -> None:
        if batch_size < 1:
            raise ParameterError("batch_size", f"={batch_size}; set 1 or more")
        if overlays < 0:
            raise ParameterError("overlays", f"={overlays}; set 0 or more")
        check_rows(ratio_rows)
        self.questions, self.decoder = data, decode
        self.metrics = Metrics(parts={name: one for name, one in metrics.items() if one is not None})
        if not self.metrics.parts:
            raise ParameterError("metrics", " is empty; leave one metric or more")
        self.batch_size, self.ratio_layer, self.ratio_rows = batch_size, ratio_layer, ratio_rows
        self.overlays = overlays
        self._objective = objective
        if every is not None and every != VALIDATION and (isinstance(every, str) or every < 1):
            raise ParameterError("every", f"={every!r}; set a number of optimiser steps, {VALIDATION}, or null")
        if every_questions < 1:
            raise ParameterError("every_questions", f"={every_questions}; set 1 or more")
        if every is not None and "judge" in self.metrics.rules.names:
            raise ParameterError("every", f"={every!r}: a judge is asked at the end alone; set null, or another rule")
        self.every, self.every_questions = every, every_questions

    @property
    def objective(self) -> str:
        """Its name; questions are read."""
        if self._objective is not None:
            return self._objective
        several = MULTI_IMAGE in self._groups()
        return f"accuracy/{MULTI_IMAGE if several else SINGLE_IMAGE}"

    def check(self, backbone: Backbone) -> None:
        """Raise ConfigError for what the backbone does not have or a decoder cannot do."""
        one_layer(backbone.num_layers, self.ratio_layer, key="eval.ratio_layer")
        self.decoder.check(backbone)

    def prepare(self, backbone: Backbone) -> None:
        """Read the questions, before any weights load. Raises ConfigError for an objective that none of them tells."""
        try:
            self.questions.prepare(backbone)
            prompts = (prompt for _, prompts in self.questions.groups() for prompt in prompts)
            self.decoder.check(backbone, prompts)
            self.metrics.check(self.questions.prompts)
        except LookRightError as error:
            raise ConfigError(f"eval: {error}") from error
        known = [f"{key}/{group}" for key in self._keys() for group in self._groups()]
        if self.objective not in known:
            raise ConfigError(f"eval.objective={self.objective!r} is not measured; {nearest_of(self.objective, known)}")

    def run(
        self, backbone: Backbone, policy: nn.Module, device: torch.device, config: DictConfig, folder: Path, anew: bool
    ) -> dict[str, Any]:
        """Answer with the policy in `folder`, going on behind answers that are there unless `anew`; returns metrics.

        `config` is that of an `infer.py` that would do the same.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if anew:
            for name in (ANSWERS_FILE, JUDGEMENTS_FILE, JUDGE_FILE):
                (folder / name).unlink(missing_ok=True)
        write_whole(folder / CONFIG_FILE, OmegaConf.to_yaml(config))
        answerer = Answerer(
            backbone=backbone,
            policy=policy.to(device).eval().requires_grad_(False),
            decoder=self.decoder,
            ratio_layer=one_layer(backbone.num_layers, self.ratio_layer),
            batch_size=self.batch_size,
            ratio_rows=self.ratio_rows,
            unreadable=self.questions.leave_out,
        )
        try:
            record = made_by(config, "train.py", describe_data(config.data))
            record.write(folder)
            predict(answerer, self.questions, self.metrics, Workspace(folder=folder, batch_size=self.batch_size))
            warnings = tuned_on_warning(config.decode, self.questions.prompts)
            warnings += trained_on_warning(run_config_of(config.run, None), self.questions, config.run)
            for warning in warnings:
                log.warning("%s", warning)
            result = measure(lambda: answerer, self.questions, self.metrics, self.overlays, folder, record, warnings)
        except LookRightError as error:
            raise LookRightError(f"eval: {error}") from error
        print(headline(self.metrics, result))
        return result

    def watch(self, backbone: Backbone) -> EvaluateWhileTraining | None:
        """Return what measures during training, None where nothing does."""
        if self.every is None:
            return None
        return EvaluateWhileTraining(
            self.questions,
            self.decoder,
            self._watched,
            every=self.every,
            num_questions=self.every_questions,
            batch_size=self.batch_size,
            ratio_layer=one_layer(backbone.num_layers, self.ratio_layer),
            ratio_rows=self.ratio_rows,
        )

    @property
    def watched(self) -> list[str]:
        """Names of what a run logs at each validation, and callbacks may monitor; questions are read."""
        if self.every != VALIDATION:
            return []
        keys = dict.fromkeys(column.key for column in self._watched.columns if column.field == "value")
        return [f"eval/{key}/{group}" for key in keys for group in self._groups()]

    @property
    def _watched(self) -> Metrics:
        return Metrics(parts={name: part for name, part in self.metrics.parts.items() if not part.judges})

    def main_numbers(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return `METRIC/GROUP` and value of what stands in the first table of the page, for `summary.json`."""
        return {
            f"{key}/{group}": entry["value"] for key in self._keys() for group, entry in result.get(key, {}).items()
        }

    def _keys(self) -> list[str]:
        """Of the metrics that have a value and its interval; what these are held against is no metric."""
        return list(dict.fromkeys(column.key for column in self.metrics.columns if column.field == "value"))

    def _groups(self) -> list[str]:
        formats = {prompt.format or SINGLE_IMAGE for _, prompts in self.questions.groups() for prompt in prompts}
        return sorted({group for name in formats for group in groups_of(name)})


def infer_config(config: DictConfig, weights: str, device: torch.device) -> DictConfig:
    """The config of an `infer.py` that answers as the evaluation of a run does; `weights` are the run's, by folder."""
    plain: Any = OmegaConf.to_container(resolved(config), resolve=True)
    run, backbone = Path(plain["output"]), plain["backbone"]
    if weights == "model" and "path" in backbone:
        backbone = backbone | {"path": str(run / weights)}
    asked = {key: value for key, value in plain["eval"].items() if key not in NOT_OF_INFER}
    return OmegaConf.create(
        {
            "backbone": backbone,
            "run": str(run),
            "adapter": str(run / weights) if weights == "adapter" else None,
            **asked,
            "num_threads": plain["trainer"]["num_threads"],
            "device": str(device),
            "dtype": plain["trainer"]["model_dtype"],
            "seed": plain["seed"],
            "output": str(run / EVAL_FOLDER),
        }
    )


def objective_of(evaluation: Evaluation | None, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and value of what a sweeper optimises, of the test sets or the held-out pairs; None is unknown."""
    if evaluation is None:
        return {"name": OBJECTIVE, "value": summary["metrics"].get(OBJECTIVE)}
    return {"name": evaluation.objective, "value": summary["eval"].get(evaluation.objective)}
