"""What the attention term costs: steps with it and without it, in turn, in one process.

python -m benchmarks.attention_term --workload outputs/benchmarks/workload --steps 24

Both have a cached reference, so the step is as short as it gets and the term as visible. The term reads the middle
half of the layers, with a threshold that it never reaches.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.onestep import Step, cached_step
from benchmarks.workload import TEXT, Workload


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    workload, depth = Workload(folder=arguments.workload), TEXT["num_hidden_layers"]
    band = list(range(depth // 4, depth // 4 + depth // 2))
    sides = [cached_step(workload, arguments.images), cached_step(workload, arguments.images, band)]
    for side in sides:
        side.run()
    pairs = []
    for number in range(arguments.steps):
        # which of the two goes first alternates, so that neither always follows the other
        order = (0, 1) if number % 2 == 0 else (1, 0)
        seconds = {place: _seconds(sides[place]) for place in order}
        pairs.append((seconds[0], seconds[1]))
    print(
        json.dumps(
            {
                "layers": band,
                "without_seconds": statistics.median(first for first, _ in pairs),
                "with_seconds": statistics.median(second for _, second in pairs),
                "median_ratio": statistics.median(second / first for first, second in pairs),
            }
        )
    )


def _seconds(side: Step) -> float:
    started = time.perf_counter()
    side.run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
