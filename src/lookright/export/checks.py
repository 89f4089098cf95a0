"""What cannot be exported, told before any weights load."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from transformers import PreTrainedConfig

from lookright.backbones.base import Backbone
from lookright.backbones.loading import DTYPES
from lookright.errors import ConfigError

ADAPTER_FILE = "adapter_model.safetensors"
ZERO_PARTS = ("zero_pp_rank_*", "*_optim_states.pt", "mp_rank_*_model_states.pt")


def check_output(output: Path) -> None:
    """Raise ConfigError for a path that is taken."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; set output to a folder that does not exist yet")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"output={output} exists and is not empty; set another output, or delete it")


def check_zero(folder: str | None, key: str) -> None:
    """Raise ConfigError for a folder with the parts that DeepSpeed's ranks wrote, in place of whole weights."""
    if folder is None or not Path(folder).is_dir():
        return
    found = next((file for pattern in ZERO_PARTS for file in Path(folder).rglob(pattern)), None)
    whole = any((Path(folder) / name).exists() for name in ("adapter", "model", ADAPTER_FILE))
    if found is not None and not whole:
        raise ConfigError(
            f"{key}={folder} holds parts of a ZeRO checkpoint ({found.relative_to(folder)}) and no whole weights; "
            f"let the run end, which gathers them: python train.py resume=RUN_DIR, then {key} is that run"
        )


def check_adapter_weights(adapter: str | None) -> None:
    """Raise ConfigError for an adapter whose tensors are empty, as ZeRO-3 leaves what nobody gathered."""
    if adapter is None or not (Path(adapter) / ADAPTER_FILE).is_file():
        return
    with safe_open(Path(adapter) / ADAPTER_FILE, framework="pt") as file:
        empty = [name for name in file.keys() if 0 in file.get_slice(name).get_shape()]  # noqa: SIM118 - not a dict
    if empty:
        raise ConfigError(
            f"adapter={adapter} has {len(empty)} empty tensors ({empty[0]}): parts that ZeRO-3 did not gather; take "
            "the adapter/ that train.py wrote at the end of its run"
        )


def check_parts(config: DictConfig, backbone: Backbone) -> None:
    """Raise ConfigError for keys that do not fit the backbone or each other."""
    if not config.merge and config.adapter is None:
        raise ConfigError("merge=false writes an adapter, and there is none; set adapter or run, or merge=true")
    if config.layout is not None and not config.merge:
        raise ConfigError(f"layout={config.layout} is that of merged weights; set merge=true, or layout=null")
    if config.layout is not None and config.layout not in backbone.export_layouts:
        valid = ", ".join(backbone.export_layouts)
        raise ConfigError(f"layout={config.layout!r}: {type(backbone).__name__} has none of that name; valid: {valid}")
    if not config.shard_gb > 0:
        raise ConfigError(f"shard_gb={config.shard_gb}; set a number above 0")
    if config.merge and backbone.quantization is not None:
        path = OmegaConf.select(config, "backbone.path")
        raise ConfigError(
            f"backbone.quantization={backbone.quantization}: what is merged must have the base's full weights; name "
            f"the backbone by itself in place of run, with backbone.path={path} backbone.quantization=null "
            f"adapter={config.adapter} (answers then part a little from those over the base in 4 bits), or set "
            "merge=false"
        )


def stored_dtype(config: DictConfig) -> torch.dtype:
    """The type that the base's config.json says; float32 where it says none."""
    path = OmegaConf.select(config, "backbone.path")
    try:
        raw = {} if path is None else PreTrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError):
        raw = {}
    name = raw.get("dtype") or raw.get("torch_dtype")
    return DTYPES.get(str(name).removeprefix("torch."), torch.float32)
