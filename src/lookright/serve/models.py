"""The models of one process by name: the base weights once, with every adapter on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.adapters import PeftModel
from lookright.backbones.base import Backbone
from lookright.backbones.loading import load_policy
from lookright.errors import ConfigError

BASE, TUNED = "base", "tuned"


def adapter_folders(adapter: str | None, adapters: Mapping[str, str]) -> dict[str, str]:
    """Names and folders of all adapters; `adapter` is `tuned`. Raises ConfigError."""
    found = {} if adapter is None else {TUNED: adapter}
    for name, folder in adapters.items():
        if name in (BASE, *found) or not name or "." in name:
            raise ConfigError(f"adapters.{name}: the name is taken, empty or has a dot; give it another one")
        found[name] = folder
    for name, folder in found.items():
        check_adapter(folder, "adapter" if name == TUNED and folder == adapter else f"adapters.{name}")
    return found


class Models:
    """What answers under which name; with adapters `base` is the model without them.

    `whole`: the weights themselves were tuned, so that a model without adapters is named `tuned`.
    """

    def __init__(
        self,
        backbone: Backbone,
        folders: Mapping[str, str],
        device: torch.device,
        dtype: torch.dtype,
        whole: bool = False,
    ) -> None:
        self.backbone = backbone
        self.names = [*folders, BASE] if folders else [TUNED if whole else BASE]
        self._peft_names = {name: "default" if number == 0 else name for number, name in enumerate(folders)}
        first = next(iter(folders.values()), None)
        self.policy: nn.Module = load_policy(backbone, first, device, dtype)
        for name, folder in list(folders.items())[1:]:
            self._add(name, folder)
        self.policy.to(device).eval().requires_grad_(False)

    @contextmanager
    def chosen(self, name: str) -> Iterator[nn.Module]:
        """The policy as `name` inside; one thread at a time."""
        if not isinstance(self.policy, PeftModel):
            yield self.policy
            return
        off = name == BASE
        if not off:
            self.policy.set_adapter(self._peft_names[name], inference_mode=True)
        with self.policy.disable_adapter() if off else nullcontext():
            yield self.policy

    def _add(self, name: str, folder: str) -> None:
        assert isinstance(self.policy, PeftModel), "the first adapter made it one"
        try:
            self.policy.load_adapter(folder, adapter_name=name)
        except (ValueError, RuntimeError) as error:
            told = str(error).splitlines()[0][:200]
            raise ConfigError(
                f"adapters.{name}={folder} does not fit the backbone: it was trained on another ({told}); leave it out"
            ) from error
