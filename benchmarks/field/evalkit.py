"""VLMEvalKit's own runner, `python -m vlmeval.run`, for its OpenAI-compatible classes alone.

Run by the Python of VLMEvalKit's environment, with the runner's arguments: `python benchmarks/field/evalkit.py --config
evalkit.json ...`. Its package imports the code of all local models at once; what they need and is not installed here
(`LOCAL_MODELS`) is stood in for by modules that hold nothing and would fail on use. `FIELD_PNG=1` has pictures sent as
PNG: the package has no such setting and always sends JPEG. Nothing else of it is touched.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from types import ModuleType
from unittest.mock import MagicMock

from transformers.utils import is_torchvision_available

LOCAL_MODELS = frozenset({"torchvision", "timm", "lpips", "clip", "cdfvd"})
"""Packages for models that run in VLMEvalKit's own process, and for the pictures of some data sets."""


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of packages that are not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A stand-in for a package of `LOCAL_MODELS` and for what lies below it."""
        del path, target
        known = name.partition(".")[0] in LOCAL_MODELS
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """A module of which every name is there."""

        class StandIn(ModuleType):
            def __getattr__(self, name: str) -> MagicMock:
                if name.startswith("__"):
                    raise AttributeError(name)
                return MagicMock(name=f"{spec.name}.{name}")

        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def send_png() -> None:
    """Have both OpenAI-compatible classes encode pictures without loss."""
    from vlmeval.api import gpt, lmdeploy

    for module in (gpt, lmdeploy):
        module.encode_image_to_base64 = functools.partial(module.encode_image_to_base64, fmt="PNG")


if __name__ == "__main__":
    # transformers looks once what is there, and is not to find stand-ins
    is_torchvision_available()
    # behind all finders, so that what is installed comes first
    sys.meta_path.append(StandIns())
    if os.environ.get("FIELD_PNG") == "1":
        send_png()
    runpy.run_module("vlmeval.run", run_name="__main__", alter_sys=True)
