"""python -m lookright.demo [--backbone tiny_llava] [--seeds 1] [--adaptive] [--output outputs/demo]: `make demo`."""

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lookright.common.files import write_whole
from lookright.common.locks import locked
from lookright.config.console import quiet
from lookright.config.entry import ending
from lookright.demo import adaptive, commands
from lookright.demo.lanes import ROOT, Chain, run_chains
from lookright.demo.results import results_table
from lookright.reports.compared_examples import compared_examples
from lookright.reports.comparison import comparison_text, write_comparison


def main() -> None:
    """Generate, train, infer, controls too; print the table, write summary.json and report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="tiny_llava")
    parser.add_argument("--output", default="outputs/demo", type=Path)
    parser.add_argument("--seeds", default=1, type=int, help="trainings of each kind; with several, results.md too")
    parser.add_argument("--adaptive", action="store_true", help="tune and measure adaptive decoding too: minutes more")
    parser.add_argument("--install-seconds", default=0.0, type=float, help="what the installation before took")
    arguments = parser.parse_args()
    quiet()
    folder = ROOT / arguments.output
    # beside the folder, which is made anew
    with ending(), locked(folder.parent, f".{folder.name}.lock"):
        demo(arguments.backbone, folder, range(arguments.seeds), arguments.install_seconds, arguments.adaptive)


def demo(
    backbone: str,
    folder: Path,
    seeds: Sequence[int] = (0,),
    install_seconds: float = 0.0,
    with_adaptive: bool = False,
) -> dict[str, Any]:
    """Run everything in a fresh `folder`; returns what summary.json holds.

    Adaptive decoding is tuned and measured for the first seed alone, base model and tuned one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seconds: dict[str, float] = {"install": install_seconds}
    logs = folder / "logs"

    def stage(name: str, chains: Sequence[Chain]) -> None:
        started = time.perf_counter()
        run_chains(chains, logs)
        seconds[name] = round(time.perf_counter() - started, 1)

    sources = commands.SOURCES
    stage("generate", [[commands.generate(source, backbone, folder)] for source in sources])
    for source in sources:
        share_answers(folder / "pairs" / source, folder / "random_pairs" / source)
    stage(
        "draw_and_compose",
        [[commands.draw_at_random(source, backbone, folder), commands.test_set(source, folder)] for source in sources],
    )
    tunings = [(tuning, seed) for seed in seeds for tuning in (commands.TUNED, *commands.CONTROLS)]
    chains = [
        [commands.train(tuning, backbone, folder, seed), commands.infer(tuning.name, backbone, folder, seed)]
        for tuning, seed in tunings
    ]
    stage("train_and_infer", [[commands.infer("base", backbone, folder)], *chains])
    if with_adaptive:
        stage("compose_validation", [[adaptive.validation_set(source, folder)] for source in sources])
        adaptive.keep_unseen(folder)
        stage("tune_adaptive", adaptive.chains(backbone, folder, seeds[0]))
    if len(seeds) > 1:
        write_whole(folder / "results.md", results_table(folder, backbone, seeds))
    return _report(folder, seconds, seeds[0], with_adaptive)


def share_answers(source: Path, copy: Path) -> None:
    """Make a run's prompts and answers those of another folder, where another selection may be made of them."""
    shutil.copytree(source / "images", copy / "images", copy_function=os.link)
    for name in ("instructions.jsonl", "answers.jsonl", "skipped.jsonl", "source.json", "config.yaml"):
        shutil.copyfile(source / name, copy / name)


def _report(folder: Path, seconds: dict[str, float], seed: int, with_adaptive: bool) -> dict[str, Any]:
    """The page and the table of one seed's runs."""
    started = time.perf_counter()
    names = ["base", *(tuning.name for tuning in (*commands.CONTROLS, commands.TUNED))]
    names += adaptive.row_names() if with_adaptive else []
    runs = {name: commands.answers_folder(name, folder, seed) for name in names}
    examples = compared_examples(runs, "base", commands.TUNED.name)
    seconds["report"] = round(time.perf_counter() - started, 1)
    seconds["total"] = round(sum(seconds.values()), 1)
    comparison = write_comparison(folder / "report.html", runs, "base", examples=examples, seconds=seconds)
    summary = {"comparison": comparison.result(), "seconds": seconds}
    if with_adaptive:
        summary["adaptive"] = {name: adaptive.finding(name, folder, seed) for name in adaptive.MODELS}
    write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    for name, scopes in summary.get("adaptive", {}).items():
        for scope, found in scopes.items():
            print(f"\n{adaptive.row_name(name, scope)}: {found['best']}; advised: {found['recommended']}")
    print(f"\n{comparison_text(comparison)}\n\n{seconds['total']:.0f} s in all; {folder / 'report.html'}")
    return summary


if __name__ == "__main__":
    main()
