"""How time and memory of our step grow with pictures and with pairs a batch; draws docs/growth.png.

python -m benchmarks.growth --workload outputs/benchmarks/workload --steps 3

Every case is a process of its own, so that its peak memory is its own. Beside each step stands what its causal
attention alone takes: SDPA forward and backward at that length, once a layer that has it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.turns import run_in_turns
from benchmarks.workload import TEXT, Workload
from lookright.training.datamodule import PreferenceData

CASES = [(1, 1), (2, 1), (3, 1), (5, 1), (3, 2), (3, 4)]
"""Pictures a pair, pairs a batch."""
PICTURE = Path(__file__).parents[1] / "docs" / "growth.png"


def main() -> None:
    """Print one line of json and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = [_case(Workload(folder=arguments.workload), *case, arguments.steps) for case in CASES]
    print(json.dumps(rows))
    draw(rows, PICTURE)


def _case(workload: Workload, num_images: int, num_pairs: int, steps: int) -> dict[str, float]:
    side = ["ours", "--workload", str(workload.folder), "--images", str(num_images), "--pairs", str(num_pairs)]
    result = run_in_turns({"ours": side}, steps)["ours"]
    data = PreferenceData(path=str(workload.pairs(num_images)), val_fraction=0.0)
    data.prepare(workload.backbone(), needs_target=False)
    tokens = data.train_sampler.lengths[0]
    return {
        "images": num_images,
        "pairs": num_pairs,
        "tokens": tokens * num_pairs,
        "seconds": result.median,
        "attention_seconds": num_pairs * attention_seconds(tokens),
        "peak_mib": result.peak_mib,
    }


def attention_seconds(tokens: int, repeats: int = 5) -> float:
    """Causal SDPA of one row: forward for policy and reference, backward for the policy, last layer left out."""
    heads = TEXT["num_attention_heads"]
    parts = [torch.randn(1, heads, tokens, TEXT["hidden_size"] // heads, requires_grad=True) for _ in range(3)]
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        with torch.no_grad():
            F.scaled_dot_product_attention(*parts, is_causal=True)
        F.scaled_dot_product_attention(*parts, is_causal=True).sum().backward()
        found.append(time.perf_counter() - started)
    return (TEXT["num_hidden_layers"] - 1) * statistics.median(found[1:])


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Memory and time over the tokens of a step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, seconds) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for label, chosen, style in (
        ("1, 2, 3, 5 images, one pair", [row for row in rows if row["pairs"] == 1], "oC0"),
        ("1, 2, 4 pairs of 3 images", [row for row in rows if row["images"] == 3], "sC1"),
    ):
        tokens = [row["tokens"] for row in chosen]
        memory.plot(tokens, [row["peak_mib"] for row in chosen], f"{style}-", label=label)
        seconds.plot(tokens, [row["seconds"] for row in chosen], f"{style}-", label=label)
        rest = [row["seconds"] - row["attention_seconds"] for row in chosen]
        seconds.plot(tokens, rest, f"{style}:", alpha=0.6, label=f"{label}, without causal attention")
    for axes, name in ((memory, "peak memory, MiB"), (seconds, "seconds a step")):
        axes.set(xlabel="tokens a step", ylabel=name, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
