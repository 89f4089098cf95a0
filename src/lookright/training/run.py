"""`train.py` from a composed config to the files of a run."""

import json
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.errors import ConfigError
from lookright.runtime import torch_dtype
from lookright.training.loggers import with_metrics_file
from lookright.training.optimization import count_steps
from lookright.training.plan import print_plan
from lookright.training.tasks import RunParts
from lookright.training.trainer import TrainerSettings

CONFIG_FILE = "config.yaml"


def train(config: DictConfig) -> dict[str, Any]:
    """Train as configured; returns what `summary.json` holds.

    Config, records and pictures are checked before weights load. A `resume` run takes its own saved config.
    """
    config = _resumed(config) if config.resume is not None else config
    check_config(config)
    folder = Path(config.output)
    settings: TrainerSettings = instantiate(config.trainer)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    backbone = instantiate(config.backbone)
    data = instantiate(config.data, _convert_="all")
    task = instantiate(config.task)
    task.prepare(config, backbone, data)
    num_batches = len(data.train_dataloader())
    num_steps = count_steps(num_batches, settings.accumulate_grad_batches, settings.max_epochs, settings.max_steps)
    if settings.plan:
        return print_plan(config, backbone, data, num_steps)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / CONFIG_FILE, resolve=True)
    started = time.perf_counter()
    dtype = torch_dtype(settings.model_dtype, "trainer.model_dtype")
    parts = RunParts(config=config, backbone=backbone, data=data, num_steps=num_steps, dtype=dtype)
    module = task.module(parts)
    if settings.gradient_checkpointing:
        module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = settings.build(folder, with_metrics_file(instantiate(config.logger), folder), len(data.val_set) > 0)
    trainer.fit(module, datamodule=data, ckpt_path=_checkpoint(folder) if config.resume is not None else None)
    summary = _summary(trainer, data, task.save(module, folder), num_steps, time.perf_counter() - started)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _summary(trainer: Trainer, data: LightningDataModule, saved: Path, num_steps: int, seconds: float) -> dict[str, Any]:
    return {
        "steps": trainer.global_step,
        "planned_steps": num_steps,
        "examples": len(data.train_set),
        "held_out": len(data.val_set),
        "dropped": dict(data.dropped),
        "weights": saved.name,
        "seconds": round(seconds, 1),
        "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
    }


def _resumed(config: DictConfig) -> DictConfig:
    """The saved config of the run to go on with. Raises ConfigError where there is none, or for other overrides."""
    folder = Path(config.resume)
    if not (folder / CONFIG_FILE).is_file() or not (folder / "checkpoints" / "last.ckpt").is_file():
        raise ConfigError(
            f"resume={folder} holds no {CONFIG_FILE} and checkpoints/last.ckpt; set resume to the folder of a "
            "train.py run that saved a checkpoint"
        )
    others = [item for item in HydraConfig.get().overrides.task if not item.lstrip("+").startswith("resume=")]
    if others:
        raise ConfigError(f"resume takes the config of {folder}; remove {', '.join(others)}")
    saved = OmegaConf.load(folder / CONFIG_FILE)
    saved.resume, saved.output = str(folder), str(folder)
    return saved


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"
