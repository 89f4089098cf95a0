"""TensorBoard and Weights & Biases, as a run logs to them. Neither package is imported before a run logs to it."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lookright.common.files import write_whole
from lookright.common.strict_json import read_object, short
from lookright.config.annotations import misfits
from lookright.errors import ConfigError, ParameterError
from lookright.training.loggers import LoggedExample, RunLogger

JOB_TYPE = "train"
STEP = "trainer/global_step"
"""Under which Lightning logs a row's step to W&B."""
WANDB_FILE = "wandb.json"
"""Which run of W&B a run's folder belongs to: RUN_KEYS of `wandb.init`."""
RUN_KEYS = ("id", "name", "group", "project", "entity")
LONGEST_NAME = 128
"""Characters that W&B takes for a name."""
OFFLINE = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE that need no login."""
KNOWN_METRICS = ("train/loss", "val/loss", "val/reward_accuracy", "val/attention_ratio")
"""Columns that TensorBoard's table of hyperparameters shows beside them, where they are measured."""


class RunTensorBoardLogger(RunLogger, TensorBoardLogger):
    """Events in `tensorboard/` of the run's folder; `examples` held-out pairs as image and text at each validation."""

    def __init__(self, folder: str | Path, tags: Sequence[str] = (), examples: int = 4) -> None:
        _check_examples(examples)
        try:
            super().__init__(save_dir=folder, name="", version="tensorboard", default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise ConfigError("logger=tensorboard: the package is missing; pip install tensorboard") from error
        self.tags, self.examples = list(tags), examples
        self._run: dict[str, str] = {}
        self._goes_on = False

    def name_run(self, name: str, group: str | None) -> None:
        """For the text `run`; what stands together in TensorBoard are folders."""
        self._run = {"name": name, "group": group or "", "job type": JOB_TYPE, "tags": ", ".join(self.tags)}

    def go_on_from(self, step: int) -> None:
        """TensorBoard leaves out events of `step` and later that were written before."""
        self._goes_on = True
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """As hyperparameters, and as text; Lightning's own would log a metric that nobody measured."""
        del args, kwargs
        self.hparams.update(params)
        if self._goes_on:
            return
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(_flat(params), dict.fromkeys(KNOWN_METRICS, 0.0)):
            self.experiment._get_file_writer().add_summary(summary)
        self.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(dict(params), sort_keys=False)}```")
        self.experiment.add_text("run", _table(self._run))

    @rank_zero_only
    def log_examples(self, examples: Sequence[LoggedExample], step: int) -> None:
        """One image and one text each."""
        for one in examples:
            self.experiment.add_image(f"examples/{one.id}", np.asarray(one.image), step, dataformats="HWC")
            self.experiment.add_text(f"examples/{one.id}", _table(_cells(one)), step)
        self.experiment.flush()

    def close(self, exit_code: int) -> None:
        """What was logged behind Lightning's own end."""
        self.finalize("success" if exit_code == 0 else "failed")


class RunWandbLogger(RunLogger, WandbLogger):
    """A run of W&B, whose files and id are in the run's folder: a run that goes on there goes on in it.

    `name` and `group` None are the swept keys and the sweep's folder; `examples` held-out pairs are a table at each
    validation; `offline` keeps all on disk for `wandb sync`; `options` are further arguments of Lightning's
    `WandbLogger` and of `wandb.init`.
    """

    def __init__(
        self,
        folder: str | Path,
        project: str = "lookright",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str = JOB_TYPE,
        tags: Sequence[str] = (),
        offline: bool = False,
        examples: int = 4,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_examples(examples)
        given = {"project": project, "entity": entity, "name": name, "group": group, "job_type": job_type}
        try:
            super().__init__(save_dir=folder, offline=offline, tags=list(tags), **given, **(options or {}))
        except ModuleNotFoundError as error:
            raise ConfigError("logger=wandb: the package is missing; pip install wandb") from error
        self.folder, self.examples = Path(folder), examples
        self._goes_on = False
        self._last_known = -1

    def check(self) -> None:
        """Raise ConfigError where nobody is logged in and the run is not offline."""
        import wandb

        if self._offline or (os.environ.get("WANDB_MODE") or wandb.setup().settings.mode) in OFFLINE:
            return
        try:
            known = wandb.login(prompt=False, verify=False)
        except wandb.errors.Error as error:
            raise ConfigError(f"logger=wandb: {error}") from error
        if not known:
            raise ConfigError(
                "logger=wandb: nobody is logged in to W&B; run wandb login, or set WANDB_API_KEY, or "
                "logger.wandb.offline=true"
            )

    def name_run(self, name: str, group: str | None) -> None:
        """What the config names itself stays."""
        for key, value in (("name", name), ("group", group)):
            if self._wandb_init[key] is None and value is not None:
                self._wandb_init[key] = value[:LONGEST_NAME]

    def go_on_from(self, step: int) -> None:
        """Take the run of W&B that the folder belongs to; a folder that was logged elsewhere gets a new one.

        Raises ConfigError for a damaged file.
        """
        del step
        path = self.folder / WANDB_FILE
        if path.is_file():
            remedy = "write it back as the run saved it, or remove it"
            kept = read_object(path, remedy)
            for one in misfits(kept, dict[str, str | None]):
                raise ConfigError(f"{path}: {one.path[0]}={short(one.value)} is not {one.wanted}; {remedy}")
            # nothing else: the folder may be somebody else's, and `dir` would lead out of it
            self._wandb_init |= {key: kept[key] for key in RUN_KEYS if key in kept}
            self._goes_on = True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B, begun when it is first asked for. Raises ConfigError where W&B refuses."""
        if self._experiment is None:
            import wandb

            if not self._goes_on:
                self._wandb_init["id"] = self._wandb_init["id"] or secrets.token_hex(4)
            kept = {key: self._wandb_init[key] for key in RUN_KEYS}
            write_whole(self.folder / WANDB_FILE, json.dumps(kept, indent=1) + "\n")
            try:
                run = super().experiment
            except wandb.errors.Error as error:
                raise ConfigError(f"logger=wandb: {error}; logger.wandb.offline=true needs no network") from error
            # what the server has of a run that goes on; offline nobody knows
            self._last_known = int(run.summary.get(STEP, -1)) if self._goes_on else -1
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Rows that W&B has already are left out: a run that goes on makes the very same again."""
        # the run says what it has when it begins
        if self.experiment and (step is None or step >= self._last_known):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_examples(self, examples: Sequence[LoggedExample], step: int) -> None:
        """Pictures with what was said as their caption, and a table; both lie in the run's folder, offline too."""
        import wandb

        if examples:
            images = {
                f"val/examples/{one.id}": wandb.Image(one.image, caption=f"{one.question}\n→ {one.answer}")
                for one in examples
            }
            rows = [list(_cells(one).values()) for one in examples]
            table = wandb.Table(columns=list(_cells(examples[0])), data=rows)
            self.log_metrics({"val/answers": table} | images, step)

    def close(self, exit_code: int) -> None:
        """The next run of this process begins another run of W&B."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)


def _check_examples(examples: int) -> None:
    if examples < 0:
        raise ParameterError("examples", f"={examples}; set 0 or more")


def _cells(example: LoggedExample) -> dict[str, Any]:
    """Columns of a table and an example's values in them."""
    told = {"id": example.id, "format": example.format, "question": example.question, "answer": example.answer}
    return told | {"chosen": example.chosen, "rejected": "\n".join(example.rejected)} | example.numbers


def _table(cells: Mapping[str, Any]) -> str:
    """Names and values as a table in markdown."""
    shown = {key: f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in cells.items()}
    rows = [f"| {key} | {value.replace('|', chr(92) + '|').replace(chr(10), '<br>')} |" for key, value in shown.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _flat(node: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Keys with dots; what TensorBoard takes for no hyperparameter is text."""
    if isinstance(node, Mapping) and node:
        parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {prefix: node if isinstance(node, bool | int | float | str) else str(node)}
