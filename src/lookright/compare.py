"""python -m lookright.compare FOLDER FOLDER [...] [--against NAME] [--output FOLDER]: answers of infer.py, paired."""

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lookright.common.formats import SINGLE_IMAGE, format_title
from lookright.common.jsonl import write_atomically
from lookright.config.entry import ending
from lookright.config.made_by import code_version, shown_path, today
from lookright.errors import ConfigError, LookRightError
from lookright.evaluation.comparison import Comparison, Difference, Group, compare_runs
from lookright.evaluation.intervals import Estimate
from lookright.evaluation.paired import Bootstrap
from lookright.reports.cells import p_text, signed
from lookright.reports.comparison import comparison_html, comparison_text

COLUMNS = (
    "source", "group", "measure", "run", "against", "num_questions", "value", "low", "high", "against_value",
    "difference", "difference_low", "difference_high", "bootstrap_low", "bootstrap_high", "gained", "lost", "p_value",
    "questions_for_a_point",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Write `comparison.csv`, `.md` and `.html`; returns 2 for a mistake of the user's. No model is loaded."""
    parser = argparse.ArgumentParser(prog="python -m lookright.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER", help="folders that infer.py or eval= wrote")
    parser.add_argument("--against", metavar="NAME", help="what the others are compared with; else the first")
    parser.add_argument("--output", type=Path, default=Path("outputs/compare"), help="where to write; else %(default)s")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="package of metrics of your own")
    parser.add_argument("--draws", type=int, default=10_000, help="of the bootstrap; else %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; else %(default)s")
    given = parser.parse_args(arguments)
    try:
        if given.draws < 100:
            raise ConfigError(f"--draws {given.draws}; an interval of 95 % takes 100 or more")
        bootstrap = Bootstrap(num_draws=given.draws, seed=given.seed)
        found = compare_runs(named(given.runs), given.against, bootstrap, given.trust)
    except LookRightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = shown_path(shlex.join(["python", "-m", "lookright.compare", *arguments]))
    notes = [f"{command}; code {code_version()}; {today()}. Bootstrap: {given.draws:,} draws of pictures, seed "
             f"{given.seed}."]  # fmt: skip
    texts = {
        "comparison.csv": csv_text(found),
        "comparison.md": markdown_text(found, notes),
        "comparison.html": comparison_html(found, notes=notes),
    }
    for name, text in texts.items():
        write_atomically(given.output / name, [text])
    print(comparison_text(found))
    print(f"wrote {', '.join(str(given.output / name) for name in texts)}")
    return 0


def named(runs: Sequence[str]) -> dict[str, Path]:
    """Return folders by name: as given by NAME=FOLDER, else the shortest end of the path that no other has.

    Raises ConfigError for one name twice.
    """
    pairs = [run.split("=", 1) if "=" in run and not Path(run).is_dir() else [None, run] for run in runs]
    paths = [Path(folder or "").resolve().parts for _, folder in pairs]
    found: dict[str, Path] = {}
    for place, (name, folder) in enumerate(pairs):
        others = [path for number, path in enumerate(paths) if number != place]
        ends = ("/".join(paths[place][-length:]) for length in range(1, len(paths[place]) + 1))
        own = name or next((end for end in ends if not any("/".join(path).endswith(f"/{end}") for path in others)), "")
        if own in found or not own:
            raise ConfigError(f"{folder} is given twice, or by the name of another; give NAME=FOLDER")
        found[own] = Path(folder or "")
    return found


def csv_text(comparison: Comparison) -> str:
    """Return a row for each source, group, measure and run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(comparison))
    return text.getvalue()


def rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Values of `COLUMNS`; what is not known, or of a mean not told, is left out. The empty source is all."""
    sources: Mapping[str, Mapping[str, Group]] = {"": comparison.groups, **comparison.sources}
    places = ((source, name, group) for source, groups in sources.items() for name, group in groups.items())
    for source, name, group in places:
        for measure in comparison.metrics.measures:
            base = group.answers[comparison.against].estimates[measure.key]
            for run in comparison.runs:
                own = group.answers[run].estimates[measure.key]
                if own is None:
                    continue
                known: dict[str, Any] = {"source": source, "group": name, "measure": measure.key, "run": run}
                known |= {"against": comparison.against, "num_questions": own.count} | _ends(own)
                found = group.differences.get(measure.key, {}).get(run)
                yield known if found is None or base is None else known | _paired(found, base)


def _ends(estimate: Estimate, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in asdict(estimate).items() if key != "count"}


def _paired(found: Difference, base: Estimate) -> dict[str, Any]:
    points = {key.replace("difference_value", "difference"): end
              for key, end in _ends(found.points, "difference_").items()}  # fmt: skip
    drawn = {} if found.bootstrap is None else _ends(found.bootstrap, "bootstrap_")
    drawn.pop("bootstrap_value", None)
    counts = {key: getattr(found, key) for key in ("gained", "lost", "p_value", "questions_for_a_point")}
    return {"against_value": base.value} | points | drawn | counts


def markdown_text(comparison: Comparison, notes: Sequence[str]) -> str:
    """Return a table for each share that the runs tell: both values, difference, intervals, test."""
    lines = [*notes, ""]
    head = ["", "questions", comparison.against, "run", "its value", "points", "95 %", "bootstrap 95 %", "gained, lost",
            "p", "questions for a point"]  # fmt: skip
    for measure in (one for one in comparison.metrics.measures if one.share):
        found = [
            _row(format_title(name), comparison.against, run, group, measure.key)
            for name, group in comparison.groups.items()
            if not (measure.several and name == SINGLE_IMAGE)
            for run in group.differences.get(measure.key, {})
        ]
        if found:
            lines += [f"### {measure.title}, %", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *found, ""]
    return "\n".join(lines)


def _row(title: str, against: str, run: str, group: Group, key: str) -> str:
    one, found = group.differences[key][run], group.answers
    before, after = found[against].estimates[key], found[run].estimates[key]
    assert before is not None and after is not None, "both tell it"
    drawn = "" if one.bootstrap is None else f"{signed(one.bootstrap.low)} to {signed(one.bootstrap.high)}"
    cells = [title, f"{group.num_questions:,}", f"{before.value:.1f}", run, f"{after.value:.1f}"]
    cells += [signed(one.points.value), f"{signed(one.points.low)} to {signed(one.points.high)}", drawn]
    cells += [
        f"+{one.gained:,} -{one.lost:,}",
        p_text(one.p_value),
        "-" if one.questions_for_a_point is None else f"{one.questions_for_a_point:,}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    with ending():
        sys.exit(main(sys.argv[1:]))
