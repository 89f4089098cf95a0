"""Shows the jobs of a sweep until all have ended: `python -m lookright.launching SWEEP_FOLDER`, again at any time."""

import sys
from pathlib import Path

from lookright.config.entry import ending
from lookright.errors import LookRightError
from lookright.launching.follow import JobsFailed, follow
from lookright.launching.jobs import Launch, launches


def main(arguments: list[str]) -> int:
    """Follow every launch of a sweep; returns 1 where a job failed, and 2 where there is none to follow."""
    folders = launches(Path(arguments[0])) if len(arguments) == 1 else []
    if not folders:
        given = " ".join(arguments) or "no folder"
        told = "name one folder of a sweep, one that hydra/launcher=slurm or local wrote to"
        print(f"error: {given} holds no launch; {told}: python -m lookright.launching SWEEP_FOLDER", file=sys.stderr)
        return 2
    status = 0
    for folder in folders:
        try:
            follow(Launch.load(folder), poll=5)
        except JobsFailed as error:
            print(error)
            status = 1
        except LookRightError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return status


if __name__ == "__main__":
    with ending():
        sys.exit(main(sys.argv[1:]))
