"""Make the weights of a small backbone from nothing: python -m recipes.tiny.pretrain backbone=llava [key=value ...]."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from hydra.core.config_store import ConfigStore
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import MISSING, DictConfig, OmegaConf

from lookright.attention.kernels import use_prefix_kernel
from lookright.commands.run_folder import (
    SUMMARY_FILE,
    how_to_go_on,
    open_folder,
    saved_config,
    summarise,
    write_page,
    write_summary,
)
from lookright.common.locks import locked
from lookright.common.stopping import stoppable
from lookright.config.check import Problems
from lookright.config.entry import launch, with_output
from lookright.config.made_by import describe_data, made_by
from lookright.training.loggers import RunCSVLogger
from lookright.training.trainer import TrainerSettings
from recipes.tiny.initialization import initialise
from recipes.tiny.module import Optimization, PretrainModule

CONFIG_FOLDER = Path(__file__).parent / "conf"
SCRIPT = "-m recipes.tiny.pretrain"


@dataclass
class TrainerConfig:
    """What of `TrainerSettings` a run of this size has use for."""

    num_threads: int | None = MISSING
    gradient_clip_val: float | None = MISSING
    log_every_n_steps: int = MISSING
    checkpoint_every: int | None = MISSING
    checkpoint_minutes: float | None = MISSING
    progress_bar: bool = MISSING


@dataclass
class PretrainConfig:
    """Root of the config."""

    backbone: Any = MISSING
    data: Any = MISSING
    optimization: Optimization = field(default_factory=Optimization)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    output: str | None = None
    resume: str | None = None


def register() -> None:
    """Put the schema where Hydra finds it."""
    ConfigStore.instance().store(name="pretrain_schema", node=PretrainConfig)


def pretrain(config: DictConfig) -> dict[str, Any]:
    """Train a backbone phase by phase as configured; returns what `summary.json` holds.

    Writes `model/`, a folder that `backbone.path` takes. A `resume` run takes its own saved config.
    """
    config = with_output(config) if config.resume is None else saved_config(config)
    folder = Path(config.output)
    with stoppable(lambda: how_to_go_on(folder, SCRIPT)), locked(folder):
        return _pretrain(config, folder)


def _pretrain(config: DictConfig, folder: Path) -> dict[str, Any]:
    problems = Problems(config)
    backbone = problems.build("backbone")
    data = problems.build("data", "all")
    settings = optimization = None
    with problems:
        settings = TrainerSettings(**config.trainer)
    with problems:
        optimization = Optimization(**OmegaConf.to_container(config.optimization))
    problems.finish()
    data.prepare(backbone)

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    use_prefix_kernel(settings.attention_kernel)
    trainer = settings.build(
        folder,
        [RunCSVLogger(folder)],
        seed=config.seed,
        has_validation=True,
        idle_parameters=False,
        script=SCRIPT,
    )
    checkpoint = open_folder(config, trainer, lambda: made_by(config, SCRIPT, describe_data(config.data)))
    started = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = backbone.build(weights=False)
    initialise(model, backbone.num_layers)
    module = PretrainModule(backbone, model, data.labels.sizes, optimization, data.phases)

    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    backbone.save_pretrained(model, folder / "model")
    if checkpoint is not None and not trainer.callback_metrics and (folder / SUMMARY_FILE).is_file():
        # a finished run: nothing was trained, and what it measured stays
        return json.loads((folder / SUMMARY_FILE).read_text())
    num_steps = sum(phase.steps for phase in data.phases)
    summary = summarise(trainer, data, num_steps, time.perf_counter() - started) | {"weights": "model"}
    write_summary(folder, summary)
    write_page(config, summary, ("optimization", "trainer"))
    rank_zero_info(f"wrote {folder / 'model'} and {folder / SUMMARY_FILE}")
    return summary


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="pretrain")
def main(config: DictConfig) -> None:
    """Run one job."""
    pretrain(config)


register()
if __name__ == "__main__":
    launch(main, "pretrain", CONFIG_FOLDER)
