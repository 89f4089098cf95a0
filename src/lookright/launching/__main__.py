"""python -m lookright.launching FOLDER: the jobs of a sweep until nothing more comes of any; at any time again."""

import argparse
import sys
from pathlib import Path

from lookright.config.entry import ending
from lookright.errors import LookRightError
from lookright.launching.follow import JobsFailed, follow
from lookright.launching.jobs import Launch, launches


def main(arguments: list[str]) -> int:
    """Follow every launch of a sweep; returns 1 where a job did not finish, and 2 where there is none to follow."""
    parser = argparse.ArgumentParser(prog="python -m lookright.launching", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a sweep that hydra/launcher=slurm or local wrote to")
    sweep = parser.parse_args(arguments).folder
    folders = launches(sweep)
    if not folders:
        told = "name the folder of a sweep, one that hydra/launcher=slurm or local wrote to"
        print(f"error: {sweep} holds no launch; {told}", file=sys.stderr)
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
