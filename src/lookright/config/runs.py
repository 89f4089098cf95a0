"""The folder of a training run, as what answers with it reads it."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lookright.errors import ConfigError

EVAL_FOLDER = "eval"
"""Below a run's folder: what `infer.py run=` would have written."""
OBJECTIVE = "val/loss"
"""What a sweeper is told of a run without test sets."""


def run_model(run: str | Path) -> tuple[DictConfig, str | None]:
    """The backbone's config of a finished run, and its adapter folder, None where the model itself was tuned.

    Raises ConfigError for a folder that is none, or of a run that did not end.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"run={run} holds no config.yaml; set run to the folder of a train.py run")
    backbone = OmegaConf.load(folder / "config.yaml").backbone
    if (folder / "adapter").is_dir():
        return backbone, str(folder / "adapter")
    if not (folder / "model").is_dir():
        raise ConfigError(f"run={run} has neither adapter/ nor model/: it did not end; run train.py resume={run} first")
    if "path" not in backbone:
        raise ConfigError(f"run={run} made its backbone itself; set backbone.path={folder / 'model'} instead of run")
    backbone.path = str(folder / "model")
    return backbone, None
