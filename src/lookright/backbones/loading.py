"""A model ready to answer: device, precision, weights, adapter."""

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from lookright.backbones.adapter_files import adapter_names, base_of
from lookright.backbones.base import Backbone
from lookright.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


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


def with_adapter(model: PreTrainedModel, adapter: str, key: str = "adapter", is_trainable: bool = False) -> PeftModel:
    """The model with a saved adapter. Raises ConfigError where that was trained on a model of another shape."""
    try:
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


def load_policy(backbone: Backbone, adapter: str | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model in evaluation mode, with its adapter if there is one."""
    model = backbone.build(dtype=dtype)
    policy = model if adapter is None else with_adapter(model, adapter)
    return policy.to(device).eval().requires_grad_(False)


def bare_model(model: nn.Module) -> PreTrainedModel:
    """The model under a PEFT wrapper; its layers carry the adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
