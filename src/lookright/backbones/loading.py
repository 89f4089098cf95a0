"""A model ready to answer: device, precision, weights, adapter."""

import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from lookright.attention.kernels import AMPERE
from lookright.backbones.adapter_files import adapter_names, base_of
from lookright.backbones.base import Backbone
from lookright.backbones.foreign import check_adapter_settings
from lookright.errors import ConfigError

if TYPE_CHECKING:
    from lookright.backbones.adapters import PeftModel

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}

AUTO = "auto"


def torch_dtype(name: str, key: str = "dtype") -> torch.dtype:
    """The type of a name. Raises ConfigError naming `key`."""
    if name not in DTYPES:
        raise ConfigError(f"{key}={name!r}; valid: {', '.join(DTYPES)}")
    return DTYPES[name]


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a device, else the CPU. Raises ConfigError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r}; valid: auto, cpu, cuda, cuda:0 ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name} but no CUDA device is visible; set device=cpu or auto")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices: any CPU, CUDA from Ampere on, ROCm."""
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= AMPERE


def placing(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Where a model answers, and in which type; `auto` is bfloat16 on a GPU that has it, else float32.

    Raises ConfigError with what is wrong with either, one a line.
    """
    problems = []
    try:
        place = pick_device(device)
    except ConfigError as error:
        problems.append(str(error))
    if dtype != AUTO and dtype not in DTYPES:
        problems.append(f"dtype={dtype!r}; valid: {', '.join(DTYPES)}, {AUTO}")
    if problems:
        raise ConfigError("\n".join(problems))
    if dtype == AUTO:
        return place, torch.bfloat16 if place.type == "cuda" and has_bfloat16(place) else torch.float32
    if dtype == "bfloat16" and not has_bfloat16(place):
        name = torch.cuda.get_device_name(place)
        raise ConfigError(f"dtype=bfloat16, but {name} has no units for it; set dtype=float16 or float32")
    return place, DTYPES[dtype]


def use_threads(num_threads: int | None) -> None:
    """Let torch use so many threads of the CPU, None for its own choice. Raises ConfigError for none."""
    if num_threads is None:
        return
    if num_threads < 1:
        raise ConfigError(f"num_threads={num_threads}; set 1 or more, or null for torch's own choice")
    torch.set_num_threads(num_threads)


def dtype_key(dtype: torch.dtype) -> str:
    """The name of a type in a config."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def with_adapter(model: PreTrainedModel, adapter: str, key: str = "adapter", is_trainable: bool = False) -> "PeftModel":
    """The model with a saved adapter. Raises ConfigError where that was trained on a model of another shape."""
    # here, since models without an adapter need no PEFT
    from lookright.backbones.adapters import PeftModel, adapting, get_peft_model_state_dict

    check_adapter_settings(adapter, key)
    try:
        with adapting(model):
            policy = PeftModel.from_pretrained(model, adapter, is_trainable=is_trainable)
    except Exception as error:  # PEFT checks few values of a config: a wrong one fails wherever it is used
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _misfit(adapter, key, lines[0][:200]) from error
    held = set(get_peft_model_state_dict(policy, save_embedding_layers=False))
    given = adapter_names(adapter, key)
    # PEFT warns at most: what is missing would stay at zero
    if held - given:
        raise _misfit(adapter, key, f"{min(held - given)} is missing, {len(held - given)} tensors in all")
    unknown = {name for name in given - held if ".lora_" in name}
    if unknown:
        raise _misfit(adapter, key, f"the model has no place for {min(unknown)}, {len(unknown)} tensors in all")
    return policy


def _misfit(adapter: str, key: str, why: str) -> ConfigError:
    return ConfigError(
        f"{key}={adapter} does not fit the backbone: it was trained on {base_of(adapter)}; set backbone to that model, "
        f"or another {key} ({why})"
    )


def describe_weights(model: nn.Module, device: torch.device) -> str:
    """What a model's parameters take by type, for the log, and where they are used."""
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        # layers in 4 bits are held as bytes
        name = "4 bits" if parameter.dtype == torch.uint8 else str(parameter.dtype).removeprefix("torch.")
        sizes[name] += parameter.nbytes
    parts = [f"{size / 2**30:.2f} GiB in {name}" for name, size in sizes.most_common()]
    return f"weights: {', '.join(parts)} on {device}"


def load_policy(backbone: Backbone, adapter: str | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model in evaluation mode, with its adapter if there is one."""
    model = backbone.build(dtype=dtype)
    log.info(describe_weights(model, device))
    policy = model if adapter is None else with_adapter(model, adapter)
    return policy.to(device).eval().requires_grad_(False)


def bare_model(model: nn.Module) -> PreTrainedModel:
    """The model under a PEFT wrapper; its layers carry the adapters."""
    peft = sys.modules.get("peft")
    return model.get_base_model() if peft is not None and isinstance(model, peft.PeftModel) else model
