"""Packages that others import at once and seldom use: loaded when something of them is asked for."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Stands for a package whose `__init__` has not run; the first unknown attribute runs it, in this very module."""

    def __init__(self, name: str, homes: Mapping[str, str]) -> None:
        super().__init__(name)
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        if name in self._homes:
            value = getattr(import_module(self._homes[name]), name)
            setattr(self, name, value)
            return value
        # from here on it is a module as any other
        self.__class__ = ModuleType  # type: ignore[assignment]  # Python allows it between module classes
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)


def postpone(package: str, homes: Mapping[str, str], **values: Any) -> None:
    """Let `import package` run nothing yet; where it is imported already, or not installed, nothing changes.

    `homes` are names and the modules below the package that they are taken from without its own `__init__`, `values`
    are there at once. Modules below are imported as ever, and the `__init__` does not run for them.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is not None:
        module = _Postponed(package, homes)
        vars(module).update(vars(module_from_spec(spec)) | values)
        sys.modules[package] = module


@contextmanager
def left_out(package: str) -> Iterator[None]:
    """Inside, a package counts as not installed."""
    before = sys.modules.get(package)
    # what Python takes for: there is none
    sys.modules[package] = None  # type: ignore[assignment]  # documented, and in no stub
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before
