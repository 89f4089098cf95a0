"""The demo's runs over several seeds as a table in markdown, with paired intervals over all of them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lookright.common.jsonl import read_lines, write_atomically
from lookright.demo import commands
from lookright.evaluation.comparison import Comparison, Group, compare_runs
from lookright.evaluation.intervals import Estimate

FORMATS = ("sequence", "grid_collage", "pic_in_pic", "multi_image", "single_image")


def pool(folder: Path, name: str, seeds: Sequence[int]) -> Path:
    """Write the answers of all seeds as one run, every question once a seed; returns its folder.

    Questions keep their source picture, by which intervals are clustered, so that a question that comes once a seed
    does not count as several. McNemar's test knows no clusters: it is taken seed by seed.
    """
    pooled = folder / "pooled" / name
    lines = (
        json.dumps({**line, "id": f"{seed}/{line['id']}"}) + "\n"
        for seed in seeds
        for line in read_lines(commands.answers_folder(name, folder, seed) / "predictions.jsonl")
    )
    write_atomically(pooled / "predictions.jsonl", lines)
    # which metrics the runs have
    config = commands.answers_folder(name, folder, seeds[0]) / "config.yaml"
    if config.is_file():
        shutil.copyfile(config, pooled / "config.yaml")
    return pooled


def results_table(folder: Path, backbone: str, seeds: Sequence[int]) -> str:
    """Markdown: accuracy of every run, and what the tuned one has before each other."""
    names = ["base", *(tuning.name for tuning in (*commands.CONTROLS, commands.TUNED))]
    pooled = {name: pool(folder, name, seeds) for name in names}
    base = compare_runs(pooled, "base")
    tuned = commands.TUNED.name
    lines = [
        f"### {backbone}",
        "",
        f"`python -m lookright.demo --backbone {backbone} --seeds {len(seeds)}`; {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}), {base.groups['multi_image'].num_questions // len(seeds):,} questions about "
        f"several images and {base.groups['single_image'].num_questions // len(seeds):,} about one, the same for all.",
        "",
        "| | " + " | ".join(FORMATS) + " | answers of another image, sequence + collage | yes or no | ratio |",
        "|---|" + "---|" * (len(FORMATS) + 3),
        *(_row(name, base, len(seeds)) for name in names),
        _chance(base),
        "",
        f"What {tuned} has before each other run, points of accuracy, pairs of answers to the same question, 95 % "
        "interval clustered by source picture over all seeds:",
        "",
        "| against | " + " | ".join(FORMATS) + " |",
        "|---|" + "---|" * len(FORMATS),
    ]
    for name in names[:-1]:
        groups = compare_runs({name: pooled[name], tuned: pooled[tuned]}, name).groups
        cells = [_signed(groups[key].accuracy[tuned].points) for key in FORMATS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_another_image(folder, seeds), ""])


def _row(name: str, comparison: Comparison, num_seeds: int) -> str:
    found = {key: comparison.groups[key].answers[name] for key in FORMATS}
    other = [found[key].num_other_image / num_seeds for key in ("sequence", "grid_collage")]
    ratio = found["multi_image"].attention_ratio
    cells = [
        *(f"{found[key].accuracy.value:.1f}" for key in FORMATS),
        f"{other[0]:.0f} + {other[1]:.0f} = {sum(other):.0f}",
        f"{found['multi_image'].num_wrong_kind / num_seeds:.0f}",
        "-" if ratio is None else f"{ratio.value:.2f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _chance(comparison: Comparison) -> str:
    groups: dict[str, Group] = comparison.groups
    cells = ["-" if groups[key].chance is None else f"{groups[key].chance:.1f}" for key in FORMATS]
    even = groups["multi_image"].answers["base"].even_ratio
    return "| a shown image at random | " + " | ".join(cells) + f" | | | {even:.2f} (even look) |"


def _another_image(folder: Path, seeds: Sequence[int]) -> list[str]:
    """Answers of another shown image before and after, seed by seed, with McNemar's exact test."""
    tuned = commands.TUNED.name
    lines = ["| answers of another image | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines.append("|---|" + "---|" * len(seeds))
    for key in ("sequence", "grid_collage"):
        cells = []
        for seed in seeds:
            runs = {name: commands.answers_folder(name, folder, seed) for name in ("base", tuned)}
            group = compare_runs(runs, "base").groups[key]
            before, after = (group.answers[name].num_other_image for name in ("base", tuned))
            p_value = group.other_image[tuned].p_value
            cells.append(f"{before} to {after} ({100 * (after - before) / before:+.0f} %), p = {p_value:.1g}")
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return lines


def _signed(points: Estimate) -> str:
    return f"{points.value:+.1f} [{points.low:+.1f}, {points.high:+.1f}]"
