"""Writes the figures of benchmarks into docs/benchmarks.md, between `<!-- figures: SECTION -->` and `<!-- end -->`.

python -m benchmarks.tables

New figures come from outputs/benchmarks/results.json; what the page shows is kept in docs/benchmarks.json, so that
some sections can be measured again and the others stay. No number between the marks is typed by hand.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import LIBRARIES, QUIET
from benchmarks.run import CACHED, OFF, RESULTS, read
from benchmarks.start import HELP, IMPORTS, MISSPELT, PLAN

DOCS = Path(__file__).parents[1] / "docs"
PAGE, SHOWN = DOCS / "benchmarks.md", DOCS / "benchmarks.json"
MARKS = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Figures = Mapping[str, Any]

SPEED_GOALS = {"float32": {OFF: 2.8, CACHED: 4.0}, "attention_aware": {OFF: 6.0, CACHED: 8.0}}
"""Times as fast as the row that a section compares with."""
MEMORY_GOALS = {"float32": 0.40, "attention_aware": 0.25}
START_GOALS = {HELP: 2.0, MISSPELT: 2.0, PLAN: 2.0, IMPORTS: 6.0}
"""CPU seconds, of every command."""
FLOOR_GOAL, TERM_GOAL, ADAPTIVE_GOAL = 0.80, 1.03, 1.05


def main() -> None:
    """Take over what was measured, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = read(SHOWN) | read(arguments.results)
    SHOWN.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(), found))


def written(page: str, results: Mapping[str, Figures]) -> str:
    """The page with the figures of `results` between its marks. Raises KeyError for a section that has no table."""

    def filled(match: re.Match[str]) -> str:
        opening, name, closing = match.groups()
        if name not in results:
            return f"{opening}\nNot measured yet: `python -m benchmarks.run {name}`.\n\n{closing}"
        entry = results[name]
        told = origin(entry, timed=name != "memory_estimate")
        return f"{opening}\n{TABLES[name](name, entry['figures'])}\n\n{told}\n\n{closing}"

    return MARKS.sub(filled, page)


def origin(entry: Figures, timed: bool = True) -> str:
    """Where figures come from, and for seconds whether others had the machine too."""
    machine, others = entry["machine"], entry["busy_cores_of_others"]
    libraries = ", ".join(f"{name} {machine[name]}" for name in LIBRARIES if name in machine)
    text = f"{machine['cpu']}, {machine['cores']} cores, {machine['vectors']}, {machine['bfloat16']}; {libraries}"
    text += f"; {entry['date']}."
    if timed and others is not None and others > QUIET:
        text += (
            f" **Disturbed**: other processes kept {others:.1f} of {machine['cores']} cores busy meanwhile, so the "
            "seconds are too long, and their quotients rough."
        )
    return f"*{text}*"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table of GitHub's Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def goals(parts: list[tuple[str, bool]]) -> str:
    """One line that says of every goal whether it was met."""
    return "Goals: " + "; ".join(f"{text}, {'met' if met else 'missed'}" for text, met in parts) + "."


def sides(name: str, figures: Figures) -> str:
    """Sides of a comparison: seconds and memory against the row that is 1.0, and the goals where there are any."""
    rows = [
        [
            side,
            f"{row['seconds']:.2f}",
            f"{row['times_as_fast']:.1f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['share_of_memory']:.0%}",
        ]
        for side, row in figures.items()
    ]
    heads = ["side", "seconds a step", "times as fast", "peak memory, MiB", "share of memory"]
    apart = max(row["largest_loss_difference"] for row in figures.values())
    # figures older than the list of single steps say how many there were at least
    counted = [len(row["all_seconds"]) for row in figures.values() if "all_seconds" in row]
    steps = f"{min(counted)} steps" if counted else "at least 5 steps"
    text = f"{table(heads, rows)}\n\nMedians of {steps}; losses agree at every step, "
    text += f"largest difference {apart:.0e}."
    if name in SPEED_GOALS:
        parts = [
            (f"{side} {goal:g} times ({figures[side]['times_as_fast']:.2f})", figures[side]["times_as_fast"] >= goal)
            for side, goal in SPEED_GOALS[name].items()
        ]
        share, goal = max(figures[side]["share_of_memory"] for side in (OFF, CACHED)), MEMORY_GOALS[name]
        parts.append((f"memory at most {goal:.0%} ({share:.1%})", share <= goal))
        text += f" {goals(parts)}"
    return text


def attention_term(name: str, figures: Figures) -> str:
    """Steps with and without the term."""
    del name
    ratio = figures["median_ratio"]
    return (
        f"{figures['without_seconds']:.2f} s without, {figures['with_seconds']:.2f} s with; median ratio of the pairs "
        f"{ratio:.3f}. {goals([(f'at most {TERM_GOAL:g}', ratio <= TERM_GOAL)])}"
    )


def floor(name: str, figures: Figures) -> str:
    """Arithmetic and step, plain and compiled."""
    del name
    rows = [
        [
            side,
            f"{row['gflop_products']:.0f}",
            f"{row['gflop_attention']:.0f}",
            f"{row['gflop_per_second']:.0f}",
            f"{row['floor_seconds']:.2f}",
            f"{row['step_seconds']:.2f}",
            f"{row['fraction']:.0%}",
            f"{min(row['all_fractions']):.0%} to {max(row['all_fractions']):.0%}" if row["all_fractions"] else "",
        ]
        for side, row in figures.items()
    ]
    heads = [
        "", "products, GFLOP", "attention, GFLOP", "rate, GFLOP/s", "floor, s", "step, s", "floor / step", "of rounds"
    ]  # fmt: skip
    best = max(row["fraction"] for row in figures.values())
    return f"{table(heads, rows)}\n\n{goals([(f'{FLOOR_GOAL:.0%} ({best:.0%})', best >= FLOOR_GOAL)])}"


def adaptive(name: str, figures: Figures) -> str:
    """Tokens and times of adaptive decoding, a row a model."""
    del name
    rows = [
        [
            model,
            f"{row['prompts']}",
            f"{row['equal_to_two_generations']}",
            f"{row['changed_by_scaling']}",
            f"{row['greedy_seconds']:.3f}",
            f"{row['adaptive_over_greedy']:.3f}",
            f"{row['two_generations_over_greedy']:.2f}",
        ]
        for model, row in figures.items()
    ]
    heads = [
        "model", "prompts", "equal to two generations", "changed by scaling", "greedy, s", "adaptive / greedy",
        "two generations / greedy",
    ]  # fmt: skip
    slowest = max(row["adaptive_over_greedy"] for row in figures.values())
    same = all(row["equal_to_two_generations"] == row["prompts"] for row in figures.values())
    reached = [(f"at most {ADAPTIVE_GOAL:g} times greedy ({slowest:.3f})", slowest <= ADAPTIVE_GOAL)]
    return f"{table(heads, rows)}\n\n{goals([*reached, ('all tokens equal', same)])}"


def growth(name: str, figures: list[Figures]) -> str:
    """Cases of more pictures and more pairs, and what 1,000 tokens more take."""
    del name
    rows = [
        [
            f"{row['images']}",
            f"{row['pairs']}",
            f"{row['tokens']:,}",
            f"{row['seconds']:.2f}",
            f"{row['attention_seconds']:.2f}",
            f"{row['peak_mib']:,.0f}",
        ]
        for row in figures
    ]
    heads = ["images", "pairs a batch", "tokens", "seconds a step", "causal attention, s", "peak memory, MiB"]
    one = sorted((row for row in figures if row["pairs"] == 1), key=lambda row: row["images"])
    several = sorted((row for row in figures if row["images"] == 3), key=lambda row: row["pairs"])
    slopes = [
        1000 * (last["peak_mib"] - first["peak_mib"]) / (last["tokens"] - first["tokens"])
        for first, *_, last in (one, several)
    ]
    shares = {row["images"]: row["attention_seconds"] / row["seconds"] for row in one}
    least, most = min(shares), max(shares)
    return (
        f"{table(heads, rows)}\n\nMemory grows by {slopes[0]:.0f} (pictures) and {slopes[1]:.0f} (pairs) MiB for 1,000 "
        "tokens. Time grows with the tokens but for the attention within a prompt, which pairs do not share: "
        f"{most} pictures spend {shares[most]:.0%} of the step there, {least} picture {shares[least]:.0%}."
    )


def memory_estimate(name: str, figures: Figures) -> str:
    """Estimate and peak, a row a case."""
    del name
    rows = [[case, f"{row['estimate_mib']:,.0f}", f"{row['measured_mib']:,.0f}"] for case, row in figures.items()]
    return table(["case", "estimate, MiB", "measured, MiB"], rows)


def start(name: str, figures: Figures) -> str:
    """CPU seconds until a command has told what is asked, a row a command; the goals hold for the slowest."""
    del name
    rows = [
        [command, *(f"{found[asked]:.1f}" if asked in found else "" for asked in START_GOALS)]
        for command, found in figures.items()
    ]
    slowest = {asked: max(found.get(asked, 0.0) for found in figures.values()) for asked in START_GOALS}
    reached = [
        (f"{asked} under {goal:g} s ({slowest[asked]:.1f})", slowest[asked] < goal)
        for asked, goal in START_GOALS.items()
    ]
    return f"{table(['', *START_GOALS], rows)}\n\n{goals(reached)}"


TABLES: dict[str, Callable[[str, Any], str]] = {
    "float32": sides,
    "float32_5_images": sides,
    "rejected_4": sides,
    "bfloat16": sides,
    "checkpointing": sides,
    "bfloat16_kernels": sides,
    "attention_aware": sides,
    "attention_term": attention_term,
    "floor": floor,
    "adaptive": adaptive,
    "growth": growth,
    "memory_estimate": memory_estimate,
    "start": start,
}
"""How the figures of a section are shown."""


if __name__ == "__main__":
    main()
