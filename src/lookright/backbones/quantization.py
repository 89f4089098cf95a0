"""A frozen base model in 4 bits under adapters (QLoRA, arXiv 2305.14314), by bitsandbytes."""

import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lookright.errors import ConfigError

KINDS = (None, "4bit")
QUANT_TYPE = "nf4"
"""4-bit NormalFloat (section 3), with the constants quantised once more."""
BYTES_PER_WEIGHT = 0.5 + (8 + 32 / 256) / 64 / 8
"""4 bits, one 8-bit scale for 64 weights and one float32 for 256 scales (section 3, double quantization)."""

ADVICE = ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community")
"""Logger, and how the message starts."""

CPU_LAYOUT = "support_avx512bf16_for_cpu"
"""Whether a bitsandbytes layer may repack its weight for inference."""


def check_quantization(kind: str | None) -> str | None:
    """Raise ConfigError for an unknown kind; its library is asked for when weights load, so a dry run needs none."""
    if kind not in KINDS:
        raise ConfigError(f"backbone.quantization={kind!r} is unknown; valid: null, 4bit")
    return kind


def require_bitsandbytes() -> None:
    """Raise ConfigError where the library is missing; call it ahead of the import.

    On CPUs with bfloat16 units the library then advises to install a package that fetches native code, for a kernel
    that no layer of ours runs (`keep_trainable`). That is not told.
    """
    logging.getLogger(ADVICE[0]).addFilter(_no_advice)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "backbone.quantization=4bit needs bitsandbytes, which is not installed; "
            "pip install 'lookright[qlora]', or set backbone.quantization=null"
        )


def _no_advice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ADVICE[1])


def loading_arguments(kind: str | None, dtype: torch.dtype, unquantised: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`: weights in 4 bits, products in `dtype`; none for None.

    `unquantised` names the modules that stay in `dtype`. Raises ConfigError where bitsandbytes is missing.
    """
    if kind is None:
        return {}
    require_bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=QUANT_TYPE,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(unquantised),
    )
    return {"quantization_config": config, "device_map": {"": loading_device()}}


def keep_trainable(model: nn.Module) -> None:
    """Bar the inference layout of every 4-bit layer in `model`; call it before the first forward pass.

    On CPUs with bfloat16 units a bitsandbytes layer repacks its weight for good in its first pass in evaluation mode
    without gradients, as a reference pass is. From then on it computes in bfloat16 and gives its input no gradient.
    The mark goes with the layer: into copies, and below the layers that PEFT puts around it.
    """
    for part in model.modules():
        if hasattr(part, CPU_LAYOUT):  # as 0.49 and 0.50 have it
            setattr(part, CPU_LAYOUT, False)


def loading_device() -> torch.device:
    """Where weights are quantised, which is where they stay: this process's own GPU, or the CPU without any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))
