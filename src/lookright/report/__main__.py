"""python -m lookright.report FOLDER [--metric NAME] [--against RUN] [--output FOLDER]: a sweep as table and page."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lookright.common.jsonl import write_atomically
from lookright.config.entry import ending
from lookright.config.made_by import code_version, shown_path, today
from lookright.errors import LookRightError
from lookright.report.page import html, markdown_text
from lookright.report.sweep import read_sweep
from lookright.report.table import csv_text


def main(arguments: Sequence[str]) -> int:
    """Write `report.csv`, `report.md` and `report.html`; returns 2 for a mistake of the user's. At any time again."""
    parser = argparse.ArgumentParser(prog="python -m lookright.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a sweep, or any above runs of train.py")
    parser.add_argument("--metric", help="what runs are judged by, as val/loss; else what they were told to optimise")
    parser.add_argument("--against", metavar="RUN", help="a run's folder below FOLDER, to take differences to")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="package of metrics of your own")
    parser.add_argument("--output", type=Path, help="where to write; else FOLDER")
    given = parser.parse_args(arguments)
    try:
        sweep = read_sweep(given.folder, given.metric, given.against, given.trust)
    except LookRightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = shown_path(shlex.join(["python", "-m", "lookright.report", *arguments]))
    texts = {
        "report.csv": csv_text(sweep),
        "report.md": markdown_text(sweep),
        "report.html": html(sweep, {"Command": command, "Code": code_version(), "Date": today()}),
    }
    folder = given.output or given.folder
    for name, text in texts.items():
        write_atomically(folder / name, [text])
    print(texts["report.md"])
    print(f"wrote {', '.join(str(folder / name) for name in texts)}")
    return 0


if __name__ == "__main__":
    with ending():
        sys.exit(main(sys.argv[1:]))
