"""Which keys a sweep changes, and what its jobs are called after them."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

SWEPT = "LOOKRIGHT_SWEPT"
"""Environment variable by which a launcher tells a job, whose command line has all overrides alike, its place."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Place:
    """Where a job stands in its sweep: the sweep's folder, and the overrides that are not the same in all jobs."""

    folder: str
    overrides: list[str]

    @property
    def name(self) -> str:
        """The swept keys with this job's values; empty where there is none. Hydra's `override_dirname` of them."""
        return ",".join(sorted(item.lstrip("+") for item in self.overrides))

    def tell(self) -> None:
        """Leave word for this process and those that it starts."""
        os.environ[SWEPT] = json.dumps(asdict(self))


def place_in_sweep() -> Place | None:
    """Of this job, None where it is none of a sweep."""
    if SWEPT in os.environ:
        return Place(**json.loads(os.environ[SWEPT]))
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    swept = swept_keys(sys.argv[1:]) | {str(key) for key in hydra.sweeper.get("params") or {}}
    given = [item for item in hydra.overrides.task if key_of(item) in swept]
    return Place(folder=str(Path(hydra.sweep.dir).absolute()), overrides=given)


def swept_keys(arguments: Iterable[str]) -> set[str]:
    """Keys of a command line that have several values, or a range of them."""
    return {key_of(item) for item in arguments if _is_sweep(item)}


def key_of(override: str) -> str:
    """What an override sets."""
    return override.partition("=")[0].lstrip("+~")


def _is_sweep(argument: str) -> bool:
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        # an option such as --config-dir, or its value
        return False
    return parsed.is_sweep_override()
