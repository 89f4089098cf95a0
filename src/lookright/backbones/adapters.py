"""PEFT, imported here and nowhere else, and without bitsandbytes where no weight has 4 bits.

PEFT imports that wherever it is installed, in order to look for its layers, and it takes 2 s of CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lookright.common.imports import left_out

with left_out("bitsandbytes"):
    from peft import (
        LoraConfig,
        PeftConfig,
        PeftModel,
        PeftType,
        get_peft_model,
        get_peft_model_state_dict,
        import_utils,
    )
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

__all__ = [
    "LoraConfig",
    "LoraLayer",
    "LoraLinear",
    "ModulesToSaveWrapper",
    "PeftConfig",
    "PeftModel",
    "PeftType",
    "adapting",
    "get_peft_model",
    "get_peft_model_state_dict",
]


@contextmanager
def adapting(model: nn.Module) -> Iterator[None]:
    """Inside, PEFT may put adapters into a model; bitsandbytes counts as installed for one that has layers of it."""
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        yield
        return
    # PEFT remembers its answers, for models that follow too
    asked = (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available)
    for question in asked:
        question.cache_clear()
    try:
        with left_out("bitsandbytes"):
            yield
    finally:
        for question in asked:
            question.cache_clear()
