"""Where a figure comes from: the machine, the libraries, and how busy others kept it meanwhile."""

import os
import resource
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from lookright.training.precision import cpu_has_bfloat16

LIBRARIES = ("torch", "transformers", "peft", "trl")
QUIET = 0.1
"""Cores that others may keep busy on average, or the host may withhold, before a figure counts as disturbed."""


def describe() -> dict[str, Any]:
    """CPU, cores, vector units, libraries."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": _bfloat16(),
        **{name: version(name) for name in LIBRARIES},
    }


@dataclass(slots=True, kw_only=True)
class Watch:
    """Counts from its making what the machine did that neither this process nor its finished children did."""

    started: float = field(default_factory=time.time)
    busy: float = field(default_factory=lambda: _busy_seconds())
    own: float = field(default_factory=lambda: _own_seconds())

    def others(self) -> float:
        """Cores that were not ours to have, on average so far: of other processes, or taken by the host."""
        elapsed = max(time.time() - self.started, 1e-9)
        return max(0.0, (_busy_seconds() - self.busy) - (_own_seconds() - self.own)) / elapsed

    def summary(self) -> dict[str, Any]:
        """What is kept beside a section's figures."""
        return {
            "machine": describe(),
            "date": datetime.fromtimestamp(self.started, UTC).date().isoformat(),
            "minutes": (time.time() - self.started) / 60,
            "busy_cores_of_others": self.others(),
        }


def _cpu_name() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


def _bfloat16() -> str:
    """How PyTorch multiplies bfloat16 matrices here."""
    with open("/proc/cpuinfo") as file:
        flags = next((line.split(":", 1)[1].split() for line in file if line.startswith("flags")), [])
    if {"avx512_bf16", "amx_bf16"} & set(flags):
        return "bfloat16 units"
    return "bfloat16 by wider units" if cpu_has_bfloat16() else "no bfloat16 units"


def _busy_seconds() -> float:
    """Seconds of all cores that were neither idle nor waiting for a disk, stolen ones too."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
