"""docs/gpu.md from what `benchmarks.gpu` measured; it says of each part what there is to know, or that it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RESULTS = DOCS / "gpu.md", DOCS / "gpu.json"
GIB = 1024
"""MiB of a GiB."""
Figures = Mapping[str, Any]

ABOUT = """\
# On a GPU

`python -m benchmarks.gpu` measures what only a GPU can tell, on a machine with one and without a network, in under \
ten minutes, and writes this page, with the figures as json beside it. `--tiny --device cpu --output DIR` \
rehearses it: the same code on small shapes, which `make test` runs.

{state}

What it measures, in this order, each part in processes and with a time limit of its own:

- `tests`: `pytest -m gpu`, the tests of kernels, bfloat16 and 4 bits that are left out elsewhere.
- `llava15_7b:KERNEL`, `ixc25_7b:KERNEL`: steps of `train.py`'s own trainer in the shapes of LLaVA-1.5-7B and \
InternLM-XC2.5-7B. Weights are random and drawn on the device; bfloat16, gradient checkpointing, LoRA r 128 with \
dropout 0.05, one pair of 5 images a step, DPO and the attention term, the reference by the adapter switched off. \
Kernels: `sdpa`, `varlen`, `flex`, `flash_attn`, as far as torch and the machine have them. Peak memory \
(`torch.cuda.max_memory_allocated` during steps) stands beside the estimate of `trainer.plan=true`.
- `llava15_7b:4bit`, `ixc25_7b:4bit`: the same on a frozen decoder in 4 bits, where bitsandbytes is there.
- `beside:ours`, `beside:trl`: DPO alone without dropout, ours and TRL's DPOTrainer, in the LLaVA shape from the same \
weights and pairs.
- `answering:llava`, `answering:ixc25`: tokens a second, greedy and adaptive, one prompt and eight at once, 64 tokens \
each, the prompt's pass included.
"""
NOTHING = (
    "**No GPU was lent to this project so far: nothing on this page is measured, the tests marked `gpu` never ran, "
    "and neither did a step in a 7B shape.** What is known of the same code on a CPU stands in "
    "[the benchmarks](./benchmarks.md)."
)


def page(found: Figures) -> str:
    """The page; `found` are the parts of docs/gpu.json by name, and `machine`."""
    machine = found.get("machine")
    measured = {name: part["figures"] for name, part in found.items() if "figures" in part}
    failed = {name: part["error"] for name, part in found.items() if "error" in part}
    sections = [ABOUT.format(state=NOTHING if machine is None else _state(machine))]
    if "tests" in measured:
        sections.append(_tests(measured["tests"]))
    steps = {name: one for name, one in measured.items() if "kernel" in one and not name.startswith("beside:")}
    if steps:
        sections.append(_steps(steps))
    beside = {name: measured[name] for name in ("beside:ours", "beside:trl") if name in measured}
    if beside:
        sections.append(_beside(beside))
    answers = [one for name, one in measured.items() if name.startswith("answering:")]
    if answers:
        sections.append(_answering(answers))
    if failed:
        sections.append(_table("What was not measured", ["part", "why"], [[f"`{n}`", w] for n, w in failed.items()]))
    return "\n".join(sections)


def _state(machine: Figures) -> str:
    libraries = ", ".join(
        f"{name} {value}" for name, value in machine.items() if name not in ("device", "cores", "gpu", "gib")
    )
    if machine["device"] == "cpu":
        return f"**A rehearsal on a CPU with small shapes: its numbers mean nothing.** {libraries}."
    return f"{machine['gpu']}, {machine['gib']:.0f} GiB, {machine['cores']} cores; {libraries}."


def _tests(figures: Figures) -> str:
    rows = "".join(f"- {line}\n" for line in figures["failed"])
    return f"## Tests marked gpu\n\n{figures['files']} files: {figures['summary']}\n{rows}"


def _steps(parts: Mapping[str, Figures]) -> str:
    header = ["shape", "weights", "kernel", "tokens a row", "seconds a step", "peak, GiB", "estimate, GiB", "off by"]
    rows = []
    for figures in parts.values():
        estimate = sum(figures["told"]["estimate_mib"].values())
        peak = figures["device_mib"]
        rows.append(
            [
                SHAPES[figures["shape"]].title,
                "4 bits" if figures["four_bit"] else "bfloat16",
                figures["kernel"],
                f"{figures['told']['tokens']:,}",
                f"{figures['seconds']:.2f}",
                _gib(peak),
                _gib(estimate),
                "" if peak is None else f"{estimate / peak - 1:+.0%}",
            ]
        )
    return _table("A step of train.py", header, rows)


def _beside(parts: Mapping[str, Figures]) -> str:
    titles = {"beside:ours": "ours", "beside:trl": "TRL's DPOTrainer"}
    rows = [
        [titles[name], f"{one['seconds']:.2f}", _gib(one["device_mib"]), ", ".join(f"{x:.4f}" for x in one["losses"])]
        for name, one in parts.items()
    ]
    return _table("Beside TRL", ["side", "seconds a step", "peak, GiB", "losses of the steps"], rows)


def _answering(parts: list[Figures]) -> str:
    rows = [
        [
            SHAPES[part["shape"]].title,
            row["decode"],
            str(row["batch"]),
            f"{part['prompt_tokens']:,}",
            f"{row['tokens_per_second']:.0f}",
        ]
        for part in parts
        for row in part["rows"]
    ]
    return _table("Answering", ["shape", "decode", "prompts at once", "tokens a prompt", "tokens a second"], rows)


def _gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / GIB:.1f}"


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return f"## {title}\n\n{body}\n"
