"""All benchmarks, or those that are named; prints a table of each and keeps every figure.

python -m benchmarks.run [float32 float32_5_images bfloat16 bfloat16_native checkpointing attention_aware attention_term
                          floor adaptive adaptive_random growth]

Figures go to outputs/benchmarks/results.json, one entry a section; docs/benchmarks.md says how to read them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.turns import SideResult, run_in_turns
from benchmarks.workload import Workload, make_workload
from lookright.training.precision import cpu_has_bfloat16

FOLDER = Path("outputs/benchmarks")
RESULTS = FOLDER / "results.json"
Table = dict[str, Any]


def against_trl(workload: Workload, images: int, steps: int, *options: str, warmup: int = 1) -> Table:
    """Ours with the adapter off and with the cache, and TRL's trainer."""
    shared = ["--workload", str(workload.folder), "--images", str(images), *options]
    sides = {
        "ours, adapter off": ["ours", *shared],
        "ours, cached": ["ours", *shared, "--reference", "cached"],
        "TRL": ["trl", *shared],
    }
    return _compared(run_in_turns(sides, steps, warmup), "TRL")


def bfloat16_kernels(workload: Workload, steps: int, *options: str) -> Table:
    """Ours on float32 kernels, as a CPU without bfloat16 units takes them, and on PyTorch's own for the type."""
    plain = ["ours", "--workload", str(workload.folder)]
    sides = {
        "float32 kernels": [*plain, *options],
        "bfloat16 kernels": [*plain, *options, "--native"],
        "float32": plain,
    }
    return _compared(run_in_turns(sides, steps), "bfloat16 kernels")


def attention_aware(workload: Workload, steps: int) -> Table:
    """Ours with the attention term against maps of every layer."""
    shared = ["--workload", str(workload.folder), "--attention"]
    sides = {
        "ours, adapter off": ["ours", *shared],
        "ours, cached": ["ours", *shared, "--reference", "cached"],
        "eager maps": ["eager", *shared],
    }
    return _compared(run_in_turns(sides, steps), "eager maps")


def script(name: str, *options: str) -> Any:
    """What a script of its own prints as its last line."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def sections(workload: Workload, steps: int) -> dict[str, Callable[[], Any]]:
    """Every section by its name."""
    place = ["--workload", str(workload.folder)]
    bfloat16 = ["--precision", "bf16-mixed"]
    # minutes a step on a CPU without units for the type: nothing is left to warm up
    warmup = int(cpu_has_bfloat16())
    return {
        "float32": lambda: against_trl(workload, 3, steps),
        "float32_5_images": lambda: against_trl(workload, 5, steps),
        "bfloat16": lambda: against_trl(workload, 3, steps, *bfloat16, warmup=warmup),
        "bfloat16_native": lambda: bfloat16_kernels(workload, steps, *bfloat16),
        "checkpointing": lambda: against_trl(workload, 3, steps, *bfloat16, "--checkpointing", warmup=warmup),
        "attention_aware": lambda: attention_aware(workload, steps),
        "attention_term": lambda: script("attention_term", *place),
        "floor": lambda: script("floor", *place),
        "adaptive": lambda: {
            "tiny_llava": script("adaptive", "--backbone", "tiny_llava"),
            "tiny_ixc25": script("adaptive", "--backbone", "tiny_ixc25"),
        },
        "adaptive_random": lambda: {"random weights": script("adaptive", *place, "--prompts", "8", "--timed", "4")},
        "growth": lambda: script("growth", *place),
    }


def main() -> None:
    """Run the sections one after the other; each is kept as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of every side, after one to warm up")
    arguments = parser.parse_args()
    workload = make_workload(FOLDER / "workload", (1, 2, 3, 5))
    known = sections(workload, arguments.steps)
    unknown = [name for name in arguments.sections if name not in known]
    if unknown:
        parser.error(f"no section {unknown[0]}; valid: {', '.join(known)}")
    for name in arguments.sections or known:
        found = known[name]()
        print(f"\n{name}\n{json.dumps(found, indent=2)}", flush=True)
        _keep(name, found)


def _compared(results: dict[str, SideResult], other: str) -> Table:
    """Medians, peaks, and how many times the other side's they are; the largest difference of the losses."""
    theirs = results[other]
    return {
        name: {
            "seconds": result.median,
            "all_seconds": result.seconds,
            "losses": result.losses,
            "peak_mib": result.peak_mib,
            "times_as_fast": theirs.median / result.median,
            "share_of_memory": result.peak_mib / theirs.peak_mib,
            "largest_loss_difference": max(
                abs(one - two) for one, two in zip(result.losses, theirs.losses, strict=True)
            ),
        }
        for name, result in results.items()
    }


def _keep(name: str, found: Any) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(kept | {name: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
