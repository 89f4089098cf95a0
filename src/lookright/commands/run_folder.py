"""The folder of a training run: what is in it, how it is opened, how a run goes on in it."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lookright.common.jsonl import write_atomically
from lookright.config.entry import given_overrides, with_output
from lookright.config.inputs import PICTURES
from lookright.config.made_by import MadeBy, described_values, read_made_by
from lookright.config.references import resolved
from lookright.config.runs import CONFIG_FILE, own_config, refuse_other_command, repeated_config
from lookright.errors import ConfigError
from lookright.launching.jobs import went_before
from lookright.reports.training import HeldOutPair, write_training
from lookright.training.checkpoints import (
    CHECKPOINT_FOLDER,
    RunCheckpoints,
    newest_whole,
    num_ranks_of,
    step_of,
    steps_in,
)
from lookright.training.datamodule import PreferenceData
from lookright.training.loggers import METRICS_FILE, RunLogger

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
PICKLED = "deepspeed"
"""Whose checkpoints are read by pickle, as `trust` names it."""


def run_config(config: DictConfig) -> DictConfig:
    """The config that a run takes: its own, the saved one of the run that it goes on with, or that of one it repeats.

    A job that its launcher starts again goes on with what it wrote to `output` itself, as if `resume` named that.
    """
    if config.resume is not None:
        others = [item for item in given_overrides() if not item.lstrip("+").startswith(("resume=", "trust="))]
        if others:
            raise ConfigError(f"resume takes the config of {config.resume}; remove {', '.join(others)}")
        return saved_config(config)
    config = with_output(config)
    if went_before(config.output) and newest_whole(Path(config.output)) is not None:
        config.resume = config.output
        return saved_config(config)
    if config.repeat is None:
        return config
    if Path(config.output).resolve() == Path(config.repeat).resolve():
        raise ConfigError(f"output={config.output} is the run that repeat names; set another output, or none")
    return repeated_config(config, given_overrides())


def saved_config(config: DictConfig) -> DictConfig:
    """Return the config of the run that `resume` names. Raises ConfigError where there is none.

    Keys that this version does not know are refused: a run goes on as it began or not at all.
    """
    folder = Path(config.resume)
    newest = newest_whole(folder)
    missing = [] if (folder / CONFIG_FILE).is_file() else [CONFIG_FILE]
    missing += [] if newest is not None else [f"whole {CHECKPOINT_FOLDER}/step=N.ckpt"]
    if missing:
        raise ConfigError(
            f"resume={folder} holds no {' and no '.join(missing)}; set resume to the folder of a run that "
            "saved a checkpoint (every trainer.checkpoint_every steps, every trainer.checkpoint_minutes, or once an "
            "epoch)"
        )
    # a job that goes on in its own output knows it
    if newest is not None and newest.is_dir() and config.output != config.resume and PICKLED not in config.trust:
        raise ConfigError(
            f"resume={folder}: {newest.name} is a folder, which DeepSpeed reads by pickle, and that may run a program; "
            f"where the run is your own, set trust=[{PICKLED}]"
        )
    saved = own_config(folder, "resume", config)
    saved.resume, saved.output = str(folder), str(folder)
    # what it was held against at its start it is not again
    saved.repeat = None
    return saved


def is_first_process() -> bool:
    """Whether this is the process of a run that writes, told before there is a trainer."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    # Lightning keeps it on the function
    rank: int = vars(rank_zero_only)["rank"]
    return rank == 0 and node == "0"


def open_folder(config: DictConfig, trainer: Trainer, record: Callable[[], MadeBy]) -> Path | None:
    """Save config and `record` of a run that begins, or take the loggers back to the checkpoint, which is returned.

    Of a run that goes on the record stays, and gets a line where code or packages are others. Raises ConfigError for
    a folder with another run.
    """
    folder = Path(config.output)
    checkpoint = None if config.resume is None else newest_whole(folder)
    if checkpoint is not None:
        _refuse_other_ranks(checkpoint, trainer)
    if not trainer.is_global_zero:
        return checkpoint
    if checkpoint is not None:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.go_on_from(step_of(checkpoint))
        _go_on(folder, record())
        return checkpoint
    refuse_other_command(folder, "output", config)
    if steps_in(folder / CHECKPOINT_FOLDER) or (folder / SUMMARY_FILE).exists():
        raise ConfigError(
            f"output={folder} holds a run already; set resume={folder} to go on with it, or another output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_FILE).unlink(missing_ok=True)
    write_atomically(folder / CONFIG_FILE, [OmegaConf.to_yaml(resolved(config))])
    record().write(folder)
    return None


def _refuse_other_ranks(checkpoint: Path, trainer: Trainer) -> None:
    """Raise ConfigError where a run would go on with more or fewer processes: its batches were dealt to as many.

    Some pairs of the epoch would be trained twice and some not at all, and steps and schedule would be others.
    """
    before, now = num_ranks_of(checkpoint), trainer.world_size
    if before in (None, now):
        return
    folder = checkpoint.parents[1]
    raise ConfigError(
        f"resume={folder}: {checkpoint.name} is of a run of {before} processes, and this one would have {now}; give it "
        f"{before} (trainer.devices and trainer.num_nodes in {folder / CONFIG_FILE}; auto takes the devices that are "
        "visible), or start anew with another output"
    )


def _go_on(folder: Path, now: MadeBy) -> None:
    """Say in the record of a run that this start has other code, if it does; one of an older version is made anew.

    Raises ConfigError for other data or weights than it began with: its place in them would be another. A picture may
    have been mended meanwhile.
    """
    begun = read_made_by(folder)
    if begun is None or not begun.versions:
        now.write(folder)
        return
    inputs = {key: one for key, one in now.inputs.items() if not key.endswith(PICTURES)}
    changed = begun.changed_inputs(inputs, f"resume={folder}").values()
    if changed:
        raise ConfigError("\n".join(f"{text}, or start anew with another output" for text in changed))
    differences = now.code_differences(begun)
    if differences:
        line = f"{now.date}: {'; '.join(differences)}"
        if line not in begun.went_on:
            replace(begun, went_on=[*begun.went_on, line]).write(folder)
        rank_zero_info(f"resume={folder}: {'; '.join(differences)}")


def how_to_go_on(folder: Path, script: str) -> str:
    """Say how to go on with a run that was interrupted."""
    if newest_whole(folder) is None:
        return "no checkpoint was written yet, so start it again"
    return f"go on with: python {script} resume={folder}"


def summarise(trainer: Trainer, data: PreferenceData, num_steps: int, seconds: float) -> dict[str, Any]:
    """Return what `summary.json` says of a run, all but where its weights lie.

    What was measured before a run went on counts too; a metric that is no number is None.
    """
    measured: dict[str, float] = {}
    for one in trainer.checkpoint_callbacks:
        measured |= one.metrics if isinstance(one, RunCheckpoints) else {}
    measured |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "steps": trainer.global_step,
        "planned_steps": num_steps,
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "dropped": dict(data.dropped),
        "seconds": round(seconds, 1),
        "metrics": {name: value if math.isfinite(value) else None for name, value in sorted(measured.items())},
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`; what is no json value is an error, not a file that others cannot read."""
    write_atomically(folder / SUMMARY_FILE, [json.dumps(summary, indent=2, allow_nan=False) + "\n"])


def describe_best(keeper: ModelCheckpoint, folder: Path) -> dict[str, Any]:
    """Return what `summary.json` says of the checkpoint that a callback kept by a metric: metric, value, file."""
    path, score = Path(keeper.best_model_path), keeper.best_model_score
    assert score is not None, "a validation has run"
    return {
        "metric": keeper.monitor,
        "value": float(score) if math.isfinite(score) else None,
        "checkpoint": str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path),
    }


def write_page(
    config: DictConfig, summary: dict[str, Any], groups: Sequence[str], pairs: Sequence[HeldOutPair] = ()
) -> None:
    """Write what the run measured, with the values of the config's `groups` and what made it, by its record."""
    folder = Path(config.output)
    record = read_made_by(folder)
    plain: Any = OmegaConf.to_container(resolved(config), resolve=False)
    settings = {key: ", ".join(described_values(plain[key])) for key in groups if plain.get(key)}
    write_training(
        folder / REPORT_FILE, folder / METRICS_FILE, summary, settings=settings, pairs=list(pairs), made_by=record
    )
