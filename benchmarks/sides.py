"""One side of a comparison of preference steps, driven from outside (see `benchmarks.turns`).

python -m benchmarks.sides ours --workload DIR --images 3 --reference cached --precision bf16-mixed --checkpointing
python -m benchmarks.sides trl --workload DIR --images 3 --head cpu
python -m benchmarks.sides eager --workload DIR --images 3
"""

import argparse
import importlib
from pathlib import Path

import torch

from benchmarks.turns import Turns
from benchmarks.workload import LORA_RANK, SEED, Workload
from lookright.attention.kernels import CHOICES
from lookright.backbones.loading import DTYPES

SIDES = ("eager", "ours", "trl")
"""`benchmarks.side_NAME` has `run`; only that one is imported, so that no side pays for another's libraries."""


def parser() -> argparse.ArgumentParser:
    """Options of all sides."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("side", choices=SIDES)
    options.add_argument("--workload", type=Path, required=True)
    options.add_argument("--images", type=int, default=3)
    options.add_argument("--pairs", type=int, default=1, help="prompts a step")
    options.add_argument("--rejected", type=int, default=1, help="rejected answers a prompt; trl: a pair for each")
    options.add_argument("--reference", choices=["adapter_off", "cached"], default="adapter_off", help="ours, eager")
    options.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    options.add_argument("--checkpointing", action="store_true")
    options.add_argument("--head", choices=["gpu", "cpu"], default="gpu", help="trl: what its fused head scores")
    options.add_argument("--kernels", choices=["auto", "bfloat16", "float32"], default="auto", help="ours, bf16-mixed")
    options.add_argument("--attention", action="store_true", help="with the attention term")
    options.add_argument("--compile", action="store_true", help="ours: trainer.compile")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--dtype", choices=DTYPES, default="float32", help="of the frozen weights")
    options.add_argument("--fresh", action="store_true", help="weights are drawn on the device, not read")
    options.add_argument("--four-bit", action="store_true", help="ours, with --fresh: the frozen decoder in 4 bits")
    options.add_argument("--rank", type=int, default=LORA_RANK)
    options.add_argument("--dropout", type=float, default=0.0, help="ours: of the adapters")
    options.add_argument("--prefix-kernel", choices=CHOICES, default="auto", help="ours: trainer.attention_kernel")
    return options


def main() -> None:
    """Run one side until it is told to end."""
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    side = importlib.import_module(f"benchmarks.side_{arguments.side}")
    side.run(Workload(folder=arguments.workload), arguments, Turns())


if __name__ == "__main__":
    main()
