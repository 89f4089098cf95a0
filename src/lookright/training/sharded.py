"""Parameters shared out over ranks (FSDP): what is wrapped, and what trains gathered for a checkpoint."""

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

WRAPPED = "_fsdp_wrapped_module."
"""What FSDP puts into the names of parameters."""


class LayerwiseFSDP(FSDPStrategy):
    """Lightning's FSDP, wrapped by decoder layer; a checkpoint holds what trains, whole, in one file.

    Lightning's own gathers the frozen model too, all layers at once. Checkpoints are those of the other strategies.
    """

    def __init__(self) -> None:
        super().__init__(use_orig_params=True, sharding_strategy="FULL_SHARD", auto_wrap_policy=wraps)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What trains, on the CPU of the first rank; empty on the others. All ranks call it together."""
        assert self.model is not None
        return gathered(self.model)


def wraps(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's question whether to look into a module, or to wrap it: each decoder layer, by the backbones' contract."""
    del nonwrapped_numel
    return recurse or any(hasattr(child, "layer_idx") for child in module.children())


def gathered(root: nn.Module) -> dict[str, Tensor]:
    """Parameters that train of a module in FSDP, by their names without it, whole: on the CPU of rank 0, else nothing.

    One wrapped part is whole at a time. All ranks call it together.
    """
    found: dict[str, Tensor] = {}
    units = {name: one for name, one in root.named_modules() if isinstance(one, FullyShardedDataParallel)}
    for path, unit in units.items():
        deeper = tuple(f"{name}." for name in units if name != path and name.startswith(f"{path}." if path else ""))
        # named inside of the context, where they have their shapes
        with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False):
            for module_path, module in unit.named_modules(prefix=path):
                if f"{module_path}.".startswith(deeper):
                    continue
                for name, parameter in module.named_parameters(module_path, recurse=False):
                    if parameter.requires_grad and torch.distributed.get_rank() == 0:
                        found[name.replace(WRAPPED, "")] = parameter.detach().cpu().clone()
    return found
