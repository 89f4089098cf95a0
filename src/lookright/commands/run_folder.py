"""The folder of a training run: what is in it, how it is opened, how a run goes on in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from lookright.config.entry import given_overrides, with_output
from lookright.config.made_by import describe_data, described_values, made_by
from lookright.config.references import resolved
from lookright.config.renamed import new_names
from lookright.errors import ConfigError
from lookright.launching.jobs import went_before
from lookright.reports.training import HeldOutPair, write_training
from lookright.training.datamodule import PreferenceData
from lookright.training.loggers import METRICS_FILE, RunCSVLogger

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def run_config(config: DictConfig) -> DictConfig:
    """The config that a run takes: its own, or the saved one of the run that it goes on with.

    A job that its launcher starts again goes on with what it wrote to `output` itself, as if `resume` named that.
    """
    if config.resume is not None:
        others = [item for item in given_overrides() if not item.lstrip("+").startswith("resume=")]
        if others:
            raise ConfigError(f"resume takes the config of {config.resume}; remove {', '.join(others)}")
        return saved_config(config)
    config = with_output(config)
    if went_before(config.output) and (Path(config.output) / LAST_CHECKPOINT).is_file():
        config.resume = config.output
        return saved_config(config)
    return config


def saved_config(config: DictConfig) -> DictConfig:
    """Return the config of the run that `resume` names. Raises ConfigError where there is none.

    Keys that this version does not know are refused: a run goes on as it began or not at all.
    """
    folder = Path(config.resume)
    missing = [str(name) for name in (CONFIG_FILE, LAST_CHECKPOINT) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"resume={folder} holds no {' and no '.join(missing)}; set resume to the folder of a run that "
            "saved a checkpoint (every trainer.checkpoint_every steps, or once an epoch)"
        )
    saved: Any = OmegaConf.load(folder / CONFIG_FILE)
    strange = sorted(set(saved) ^ set(config))
    if strange:
        known = [str(name) for name in config]
        renamed = [told for told in (new_names(str(name), known) for name in saved) if told is not None]
        raise ConfigError(
            f"resume={folder}: config.yaml was saved by another version of this program ({', '.join(strange)}); "
            "go on with that version (made_by.json or the log names it), or start anew with another output"
            f"{''.join(f'; {told}' for told in renamed)}"
        )
    saved.resume, saved.output = str(folder), str(folder)
    return saved


def open_folder(config: DictConfig, trainer: Trainer) -> None:
    """Save the config, or cut the metrics back to the checkpoint. Raises ConfigError for a folder with another run."""
    if not trainer.is_global_zero:
        return
    folder = Path(config.output)
    if config.resume is not None:
        step = torch.load(folder / LAST_CHECKPOINT, map_location="meta", weights_only=True, mmap=True)["global_step"]
        for logger in trainer.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.forget_from(step)
        return
    if (folder / LAST_CHECKPOINT).exists() or (folder / SUMMARY_FILE).exists():
        raise ConfigError(
            f"output={folder} holds a run already; set resume={folder} to go on with it, or another output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_FILE).unlink(missing_ok=True)
    OmegaConf.save(resolved(config), folder / CONFIG_FILE)


def summarise(trainer: Trainer, data: PreferenceData, num_steps: int, seconds: float) -> dict[str, Any]:
    """Return what `summary.json` says of a run, all but where its weights lie."""
    return {
        "steps": trainer.global_step,
        "planned_steps": num_steps,
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "dropped": dict(data.dropped),
        "seconds": round(seconds, 1),
        "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
    }


def describe_best(keeper: ModelCheckpoint, folder: Path) -> dict[str, Any]:
    """Return what `summary.json` says of the checkpoint that a callback kept by a metric: metric, value, file."""
    path, score = Path(keeper.best_model_path), keeper.best_model_score
    assert score is not None, "a validation has run"
    return {
        "metric": keeper.monitor,
        "value": float(score),
        "checkpoint": str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path),
    }


def write_page(
    config: DictConfig, summary: dict[str, Any], script: str, groups: Sequence[str], pairs: Sequence[HeldOutPair] = ()
) -> None:
    """Write what the run measured, with the values of the config's `groups` and what made it."""
    folder = Path(config.output)
    record = made_by(config, script, describe_data(config.data))
    record.write(folder)
    plain: Any = OmegaConf.to_container(resolved(config), resolve=False)
    settings = {key: ", ".join(described_values(plain[key])) for key in groups if plain.get(key)}
    write_training(
        folder / REPORT_FILE, folder / METRICS_FILE, summary, settings=settings, pairs=list(pairs), made_by=record
    )
