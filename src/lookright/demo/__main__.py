"""python -m lookright.demo [--backbone tiny_llava] [--output outputs/demo]: what `make demo` runs."""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from lookright.config.console import quiet
from lookright.demo import commands
from lookright.demo.lanes import ROOT, run_lanes
from lookright.errors import LookRightError
from lookright.inference.examples import compared_examples
from lookright.reports.comparison import comparison_text, write_comparison


def main() -> None:
    """Generate, train, infer; print the table, write summary.json and report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="tiny_llava")
    parser.add_argument("--output", default="outputs/demo", type=Path)
    parser.add_argument("--install-seconds", default=0.0, type=float, help="what the installation before took")
    arguments = parser.parse_args()
    quiet()
    try:
        demo(arguments.backbone, ROOT / arguments.output, arguments.install_seconds)
    except LookRightError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def demo(backbone: str, folder: Path, install_seconds: float = 0.0) -> dict[str, Any]:
    """Run everything in a fresh `folder`; returns what summary.json holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seconds: dict[str, float] = {"install": install_seconds}
    logs = folder / "logs"

    def stage(name: str, lanes: list[list[list[str]]]) -> None:
        started = time.perf_counter()
        run_lanes(lanes, logs)
        seconds[name] = round(time.perf_counter() - started, 1)

    stage(
        "generate",
        [
            [commands.generate(source, backbone, folder), commands.test_set(source, folder)]
            for source in commands.SOURCES
        ],
    )
    stage("train_and_infer_base", [[commands.train(backbone, folder)], [commands.infer("base", backbone, folder)]])
    stage("infer_tuned", [[commands.infer("tuned", backbone, folder)]])
    return _report(folder, seconds)


def _report(folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    started = time.perf_counter()
    runs = {name: folder / name for name in ("base", "tuned")}
    examples = compared_examples(runs, "base", "tuned")
    seconds["report"] = round(time.perf_counter() - started, 1)
    seconds["total"] = round(sum(seconds.values()), 1)
    comparison = write_comparison(folder / "report.html", runs, "base", examples=examples, seconds=seconds)
    metrics = {name: json.loads((run / "metrics.json").read_text()) for name, run in runs.items()}
    summary = {**{name: _figures(found) for name, found in metrics.items()}, "seconds": seconds}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{comparison_text(comparison)}\n\n{seconds['total']:.0f} s in all; {folder / 'report.html'}")
    return summary


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Accuracies in percent, their intervals and numbers of questions, and attention ratios."""
    accuracy, ratio = metrics["accuracy"], metrics["attention_ratio"]
    return {
        **{name: round(entry["value"], 2) for name, entry in accuracy.items()},
        "intervals": {name: [round(entry["low"], 2), round(entry["high"], 2)] for name, entry in accuracy.items()},
        "questions": {name: entry["num_questions"] for name, entry in accuracy.items()},
        "attention_ratio": {name: round(entry["value"], 4) for name, entry in ratio.items()},
        "even_ratio": {name: round(entry["even"], 4) for name, entry in ratio.items()},
    }


if __name__ == "__main__":
    main()
