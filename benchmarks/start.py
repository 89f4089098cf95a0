"""CPU seconds, user and system, until a command has told what is asked of it.

python -m benchmarks.start --repeats 5

Every case is a process of its own; of each the median. Cases take turns, so that a drift of the machine meets all of
them alike; the first round, which reads the files from the disk, does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from lookright.config.entry import EXIT_USER_ERROR
from lookright.config.folders import HOME

COMMANDS = ("generate", "train", "infer", "tune_adaptive")
TYPO = "bacth_size=1"
HELP, MISSPELT, PLAN, IMPORTS = "--help", "a misspelt key", "trainer.plan=true", "a job's imports"


def cases() -> dict[str, dict[str, list[str]]]:
    """Command lines by command and by what is asked; torch alone is what no command that computes goes below."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in COMMANDS:
        script = str(HOME / f"{name}.py")
        found[f"{name}.py"] = {
            HELP: [script, "--help"],
            MISSPELT: [script, TYPO],
            IMPORTS: ["-c", f"import lookright.commands.{name}"],
        }
    found["train.py"][PLAN] = [str(HOME / "train.py"), "trainer.plan=true"]
    found["torch alone"] = {IMPORTS: ["-c", "import torch"]}
    return found


def seconds(arguments: list[str], folder: Path) -> float:
    """What a process of this Python took, which `folder` is the working folder of. Raises where it failed."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (EXIT_USER_ERROR if TYPO in arguments else 0):
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"), help="where plans write their log")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    known = cases()
    rounds = [
        {
            (name, asked): seconds(line, arguments.folder)
            for name, lines in known.items()
            for asked, line in lines.items()
        }
        for _ in range(arguments.repeats + 1)
    ]
    table: dict[str, dict[str, float]] = {name: {} for name in known}
    for name, asked in rounds[0]:
        table[name][asked] = statistics.median(one[name, asked] for one in rounds[1:])
    print(json.dumps(table))


if __name__ == "__main__":
    main()
