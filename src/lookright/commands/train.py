"""`train.py` from a composed config to the files of a run."""

import json
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import DictConfig, OmegaConf

from lookright.attention.kernels import use_prefix_kernel
from lookright.backbones.base import Backbone
from lookright.backbones.loading import torch_dtype
from lookright.commands.tasks import RunParts, Task
from lookright.config.check import Problems
from lookright.config.entry import given_overrides, with_output
from lookright.config.made_by import describe_data, described_values, made_by
from lookright.errors import ConfigError
from lookright.reports.training import HeldOutPair, write_training
from lookright.training.compilation import compile_blocks
from lookright.training.loggers import METRICS_FILE, RunCSVLogger, close, with_metrics_file
from lookright.training.optimization import Optimization, count_steps
from lookright.training.plan import print_plan
from lookright.training.trainer import TrainerSettings

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def train(config: DictConfig) -> dict[str, Any]:
    """Train as configured; returns what `summary.json` holds.

    Config, records and pictures are checked before weights load. A `resume` run takes its own saved config.
    Of several processes the first one alone writes.
    """
    config = with_output(config) if config.resume is None else _resumed(config)
    settings, backbone, data, task = _parts(config)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    use_prefix_kernel(settings.attention_kernel)
    folder = Path(config.output)
    task.prepare(config, backbone, data)
    loggers = [] if settings.plan else with_metrics_file(_logger(config), folder)
    trainer = settings.build(
        folder, loggers, seed=config.seed, has_validation=len(data.val_set) > 0, idle_parameters=task.idle_parameters
    )
    _refuse_sweep(trainer)
    num_steps = _count_steps(settings, data, trainer)
    if settings.plan:
        return print_plan(config, backbone, data, num_steps)
    _open_folder(config, folder, trainer)
    started = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    dtype = torch_dtype(settings.model_dtype, "trainer.model_dtype")
    module = task.module(RunParts(config=config, backbone=backbone, data=data, num_steps=num_steps, dtype=dtype))
    if settings.gradient_checkpointing:
        module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_blocks(module.backbone.language_model(module.trained_model))
    task.before_fit(module, data, trainer)
    checkpoint = None if config.resume is None else folder / LAST_CHECKPOINT
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trained = checkpoint is None or trainer.callback_metrics or not (folder / SUMMARY_FILE).is_file()
    # of a finished run nothing was trained, and what it measured stays
    summary = (
        _summary(trainer, data, num_steps, time.perf_counter() - started)
        if trained
        else json.loads((folder / SUMMARY_FILE).read_text())
    )
    close(trainer.loggers)
    if trainer.is_global_zero:
        summary["weights"] = task.save(module, folder).name
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
        if trained:
            _write_page(config, folder, summary, task.held_out_pairs(module, data))
        rank_zero_info(f"wrote {folder / summary['weights']}, {folder / SUMMARY_FILE} and {folder / REPORT_FILE}")
    return summary


def _write_page(config: DictConfig, folder: Path, summary: dict[str, Any], pairs: list[HeldOutPair]) -> None:
    """What the run measured, and what made it."""
    record = made_by(config, "train.py", describe_data(config.data))
    record.write(folder)
    plain = OmegaConf.to_container(config, resolve=True)
    groups = ("loss", "reference", "tuning", "optimization", "trainer")
    settings = {key: ", ".join(described_values(plain[key])) for key in groups if plain.get(key)}
    write_training(folder / REPORT_FILE, folder / METRICS_FILE, summary, settings=settings, pairs=pairs, made_by=record)


def _parts(config: DictConfig) -> tuple[TrainerSettings, Backbone, LightningDataModule, Task]:
    """What the config names, without weights. Raises ConfigError with the problems of all parts."""
    problems = Problems(config)
    settings = problems.build("trainer")
    backbone = problems.build("backbone")
    data = problems.build("data", "all")
    task = problems.build("task")
    if task is not None:
        task.check(problems)
    with problems:
        Optimization(**OmegaConf.to_container(config.optimization))
    problems.finish()
    return settings, backbone, data, task


def _logger(config: DictConfig) -> Logger | None:
    return None if config.logger is None else instantiate(config.logger)


def _refuse_sweep(trainer: Trainer) -> None:
    """Each process of a distributed run starts the command line again, and with it the whole sweep."""
    if trainer.world_size == 1 or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    if HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
        raise ConfigError(
            f"-m runs its jobs in one process, and trainer.devices={trainer.num_devices} needs more; "
            "set hydra/launcher=slurm, or run the jobs one by one"
        )


def _count_steps(settings: TrainerSettings, data: LightningDataModule, trainer: Trainer) -> int:
    """Optimiser steps of the run. The trainer tells the data how many processes share them."""
    data.trainer = trainer
    num_batches = len(data.train_dataloader())
    if len(data.val_set):
        settings.check_validation(num_batches)
    return count_steps(num_batches, settings.accumulate_grad_batches, settings.max_epochs, settings.max_steps)


def _open_folder(config: DictConfig, folder: Path, trainer: Trainer) -> None:
    """Save the config, or cut the metrics back to the checkpoint. Raises ConfigError for a folder with another run."""
    if not trainer.is_global_zero:
        return
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
    OmegaConf.save(config, folder / CONFIG_FILE, resolve=True)


def _summary(trainer: Trainer, data: LightningDataModule, num_steps: int, seconds: float) -> dict[str, Any]:
    return {
        "steps": trainer.global_step,
        "planned_steps": num_steps,
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "dropped": dict(data.dropped),
        "seconds": round(seconds, 1),
        "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
    }


def _resumed(config: DictConfig) -> DictConfig:
    """The saved config of the run to go on with. Raises ConfigError where there is none, or for other overrides."""
    folder = Path(config.resume)
    missing = [str(name) for name in (CONFIG_FILE, LAST_CHECKPOINT) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"resume={folder} holds no {' and no '.join(missing)}; set resume to the folder of a train.py run that "
            "saved a checkpoint (every trainer.checkpoint_every steps, or once an epoch)"
        )
    others = [item for item in given_overrides() if not item.lstrip("+").startswith("resume=")]
    if others:
        raise ConfigError(f"resume takes the config of {folder}; remove {', '.join(others)}")
    saved = OmegaConf.load(folder / CONFIG_FILE)
    saved.resume, saved.output = str(folder), str(folder)
    return saved
