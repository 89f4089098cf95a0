"""Our cached step against the arithmetic that it cannot do without.

python -m benchmarks.floor --workload outputs/benchmarks/workload --steps 15

The matrix products of a real step are listed by shape as they run; each shape is then timed on its own in the same
process. Causal attention counts two products forward and four backward over half of the square, at the mean rate of
all other products. Floor = all of this. Products, the plain step and the compiled one take turns, since the rate of a
machine drifts; the fraction of a side is the median over rounds of floor over step.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.onestep import Step, cached_step
from benchmarks.workload import TEXT, Workload

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.addmm_.default: 1,
    aten.baddbmm.default: 1,
    aten.baddbmm_.default: 1,
}
"""Operators, and where the first factor stands among their arguments."""

Product = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Shapes and strides of both factors."""


class ProductList(TorchDispatchMode):
    """Counts the matrix products that run inside it, by shape and memory layout of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            first = PRODUCTS[func]
            left, right = args[first], args[first + 1]
            self.found[tuple(left.shape), tuple(left.stride()), tuple(right.shape), tuple(right.stride())] += 1
        return func(*args, **(kwargs or {}))


def flops(product: Product) -> int:
    """Multiplications and additions."""
    left, _, right, _ = product
    return 2 * right[-1] * torch.Size(left).numel()


def seconds_of(product: Product, repeats: int = 3) -> float:
    """Median seconds of one product on fresh values in the same layout, after one to warm up."""
    left_shape, left_stride, right_shape, right_stride = product
    left, right = _filled(left_shape, left_stride), _filled(right_shape, right_stride)
    return statistics.median([_seconds(lambda: left @ right) for _ in range(1 + repeats)][1:])


def attention_flops(prefix: int) -> int:
    """Two products forward and four backward over half of the square, in all layers but the trimmed last."""
    width, layers = TEXT["hidden_size"], TEXT["num_hidden_layers"] - 1
    return 6 * layers * prefix * prefix * width


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    workload = Workload(folder=arguments.workload)
    sides = {
        "plain": cached_step(workload, arguments.images),
        "compiled": cached_step(workload, arguments.images, compiled=True),
    }
    print(json.dumps(measure(sides, arguments.steps)))


def measure(sides: Mapping[str, Step], num_rounds: int) -> dict[str, dict[str, float]]:
    """Floor, step and their quotient for every side; the first side's products are the arithmetic of all."""
    for side in sides.values():
        side.run()
    first = next(iter(sides.values()))
    with ProductList() as products:
        first.run()
    counted = sum(count * flops(product) for product, count in products.found.items())
    attention = attention_flops(first.batch.layout.prefix_lengths[0])
    rounds = []
    for _ in range(num_rounds):
        seconds = {name: _seconds(side.run) for name, side in sides.items()}
        products_alone = sum(count * seconds_of(product) for product, count in products.found.items())
        rounds.append((products_alone * (1 + attention / counted), seconds))
    return {
        name: {
            "gflop_products": counted / 1e9,
            "gflop_attention": attention / 1e9,
            "gflop_per_second": (counted + attention) / 1e9 / statistics.median(floor for floor, _ in rounds),
            "floor_seconds": statistics.median(floor for floor, _ in rounds),
            "step_seconds": statistics.median(seconds[name] for _, seconds in rounds),
            "fraction": statistics.median(floor / seconds[name] for floor, seconds in rounds),
            "all_fractions": [floor / seconds[name] for floor, seconds in rounds],
        }
        for name in sides
    }


def _filled(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # a stride of 0 is one value seen many times
    own = [size if step else 1 for size, step in zip(shape, stride, strict=True)]
    return torch.empty_strided(own, stride).normal_().expand(shape)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
