"""All benchmarks: sides in processes of their own, alternating; medians and ratios.

python -m benchmarks.run [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any


def measure(side: str) -> dict[str, Any]:
    """One process of one side."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", side], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Alternate the sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"packed": [], "plain": []}
    for _ in range(arguments.rounds):
        for side, runs in found.items():
            runs.append(measure(side))
            print(runs[-1], flush=True)
    seconds = {
        side: statistics.median(value for run in runs for value in run["seconds"]) for side, runs in found.items()
    }
    peaks = {side: statistics.median(run["peak_mib"] for run in runs) for side, runs in found.items()}
    for side in found:
        print(f"{side}: {seconds[side]:.2f} s a step, peak {peaks[side]:.0f} MiB")
    time_ratio, memory_ratio = (values["plain"] / values["packed"] for values in (seconds, peaks))
    print(f"plain / packed: {time_ratio:.2f} x time, {memory_ratio:.2f} x memory")


if __name__ == "__main__":
    main()
