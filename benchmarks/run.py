"""All benchmarks that have no figures yet, or those that are named; keeps every figure.

python -m benchmarks.run                 # goes on where it was stopped
python -m benchmarks.run float32 floor   # these two, again

Figures go to outputs/benchmarks/results.json, one entry a section, as soon as the section is done, with the machine,
the date and how busy other processes kept the cores. A section that fails is named at the end and the others run.
`python -m benchmarks.tables` writes them into docs/benchmarks.md, which says how to read them.
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import Watch
from benchmarks.turns import SideResult, run_in_turns
from benchmarks.workload import Workload, make_workload
from lookright.training.precision import cpu_has_bfloat16

FOLDER = Path("outputs/benchmarks")
RESULTS = FOLDER / "results.json"
CASES = [(1, 1), (2, 1), (3, 1), (5, 1), (3, 4)]
"""Pictures and rejected answers a prompt."""
OFF, CACHED = "ours, adapter off", "ours, cached"
TRL, TRL_CPU = "TRL, response tokens", "TRL, every position"
LOSS_TOLERANCE = {"32-true": 5e-5, "bf16-mixed": 2e-2}
"""Sides whose losses differ by more do not compute the same step; another order of float32 sums gives 1e-5."""
Table = dict[str, Any]


def against_trl(
    workload: Workload, steps: int, *, images: int = 3, rejected: int = 1, precision: str = "32-true", **more: bool
) -> Table:
    """Ours with the adapter off and with the cache, TRL scoring response tokens alone, and TRL as it is on a CPU.

    The last one is left out with several rejected answers: it tells nothing that one of them does not.
    """
    shared = ["--workload", str(workload.folder), "--images", str(images), "--rejected", str(rejected)]
    shared += ["--precision", precision, *(f"--{name}" for name, given in more.items() if given)]
    sides = {
        OFF: ["ours", *shared],
        CACHED: ["ours", *shared, "--reference", "cached"],
        TRL: ["trl", *shared, "--head", "gpu"],
        TRL_CPU: ["trl", *shared, "--head", "cpu"],
    }
    if rejected > 1:
        del sides[TRL_CPU]
    # minutes a step on a CPU without units for the type: nothing is left to warm up
    warmup = int(precision == "32-true" or cpu_has_bfloat16())
    return _compared(run_in_turns(sides, steps, warmup), TRL, LOSS_TOLERANCE[precision])


def bfloat16_kernels(workload: Workload, steps: int) -> Table:
    """Ours on float32 kernels, as a CPU without bfloat16 units takes them, and on PyTorch's own for the type."""
    plain = ["ours", "--workload", str(workload.folder)]
    mixed = [*plain, "--precision", "bf16-mixed", "--kernels"]
    sides = {
        "float32 kernels": [*mixed, "float32"],
        "bfloat16 kernels": [*mixed, "bfloat16"],
        "float32": plain,
    }
    return _compared(run_in_turns(sides, steps), "bfloat16 kernels", LOSS_TOLERANCE["bf16-mixed"])


def attention_aware(workload: Workload, steps: int) -> Table:
    """Ours with the attention term against maps of every layer."""
    shared = ["--workload", str(workload.folder), "--attention"]
    sides = {
        OFF: ["ours", *shared],
        CACHED: ["ours", *shared, "--reference", "cached"],
        "eager maps": ["eager", *shared],
    }
    return _compared(run_in_turns(sides, steps), "eager maps", LOSS_TOLERANCE["32-true"])


def script(name: str, *options: str) -> Any:
    """What a script of its own prints as its last line."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def sections(workload: Workload, steps: int) -> dict[str, Callable[[], Any]]:
    """Every section by its name."""
    place = ["--workload", str(workload.folder)]
    mixed = {"precision": "bf16-mixed"}
    return {
        "float32": lambda: against_trl(workload, steps),
        "float32_5_images": lambda: against_trl(workload, steps, images=5),
        "rejected_4": lambda: against_trl(workload, steps, rejected=4),
        "bfloat16": lambda: against_trl(workload, steps, **mixed),
        "checkpointing": lambda: against_trl(workload, steps, **mixed, checkpointing=True),
        "bfloat16_kernels": lambda: bfloat16_kernels(workload, steps),
        "attention_aware": lambda: attention_aware(workload, steps),
        "attention_term": lambda: script("attention_term", *place),
        "floor": lambda: script("floor", *place),
        "adaptive": lambda: {
            "tiny_llava": script("adaptive", "--backbone", "tiny_llava"),
            "tiny_ixc25": script("adaptive", "--backbone", "tiny_ixc25"),
            "random weights": script("adaptive", *place, "--prompts", "8", "--timed", "4"),
        },
        "growth": lambda: script("growth", *place),
        "memory_estimate": lambda: script("estimate", *place),
        "start": lambda: script("start"),
    }


def main() -> int:
    """Run the sections one after the other; how many of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of every side, after one to warm up")
    parser.add_argument("--again", action="store_true", help="all sections, those with figures too")
    arguments = parser.parse_args()
    workload = make_workload(FOLDER / "workload", CASES)
    known = sections(workload, arguments.steps)
    unknown = [name for name in arguments.sections if name not in known]
    if unknown:
        parser.error(f"no section {unknown[0]}; valid: {', '.join(known)}")
    if arguments.again:
        RESULTS.unlink(missing_ok=True)
    kept = read(RESULTS)
    failed = [
        name
        for name in arguments.sections or [name for name in known if name not in kept]
        if not _run(name, known[name])
    ]
    if failed:
        print(f"failed: {', '.join(failed)}; their errors stand above", file=sys.stderr)
    return len(failed)


def read(path: Path) -> dict[str, Any]:
    """The sections of a results file, none where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def _run(name: str, section: Callable[[], Any]) -> bool:
    """Run and keep one section; whether it went well."""
    print(f"\n{name}", file=sys.stderr, flush=True)
    watch = Watch()
    try:
        found = section()
    except Exception:
        traceback.print_exc()
        return False
    entry = watch.summary() | {"figures": found}
    print(f"{name}\n{json.dumps(entry, indent=2)}", flush=True)
    # whole or not at all: a run may be killed at any point
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(read(RESULTS) | {name: entry}, indent=2) + "\n")
    os.replace(part, RESULTS)
    return True


def _compared(results: dict[str, SideResult], other: str, tolerance: float) -> Table:
    """Medians, peaks, and how many times the other side's they are; the largest difference of the losses.

    Raises RuntimeError where a side's losses are not the other's within `tolerance`.
    """
    theirs = results[other]
    table = {}
    for name, result in results.items():
        apart = [abs(one - two) for one, two in zip(result.losses, theirs.losses, strict=True)]
        if not all(difference <= tolerance for difference in apart):
            raise RuntimeError(
                f"losses of {name!r} differ from those of {other!r} by {apart}, at most {tolerance} is rounding: "
                "not the same step"
            )
        table[name] = {
            "seconds": result.median,
            "all_seconds": result.seconds,
            "losses": result.losses,
            "built_mib": result.built_mib,
            "peak_mib": result.peak_mib,
            "times_as_fast": theirs.median / result.median,
            "share_of_memory": result.peak_mib / theirs.peak_mib,
            "largest_loss_difference": max(apart),
        }
    return table


if __name__ == "__main__":
    sys.exit(main())
