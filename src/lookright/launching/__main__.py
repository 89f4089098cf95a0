"""python -m lookright.launching FOLDER: the jobs of a sweep until nothing more comes of any; at any time again."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from lookright.config.entry import ending
from lookright.errors import ConfigError
from lookright.launching.follow import JobsFailed, follow
from lookright.launching.jobs import Launch, launches
from lookright.launching.local import begun_again, run_here


def main(arguments: list[str]) -> int:
    """Follow every launch of a sweep; returns 1 where a job did not finish, and 2 where there is none to follow."""
    parser = argparse.ArgumentParser(prog="python -m lookright.launching", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a sweep that hydra/launcher=slurm or local wrote to")
    parser.add_argument("--go-on", action="store_true", help="begin the jobs of this machine again that did not finish")
    parser.add_argument("--parallel", type=int, default=1, help="of those, how many at a time")
    given = parser.parse_args(arguments)
    found = [Launch.load(folder) for folder in launches(given.folder)]
    if not found:
        told = "name the folder of a sweep, one that hydra/launcher=slurm or local wrote to"
        raise ConfigError(f"{given.folder} holds no launch; {told}")
    if given.parallel < 1:
        raise ConfigError(f"--parallel {given.parallel}; set 1 or more")
    status = 0
    for place, launch in enumerate(found):
        # a job that a later launch has anew is one of that
        later = {job.folder for other in found[place + 1 :] for job in other.jobs}
        jobs = [job for job in launch.jobs if job.shared or job.folder not in later]
        try:
            if given.go_on:
                run_here(begun_again(launch, jobs), given.parallel, poll=1)
            else:
                follow(replace(launch, jobs=jobs), poll=5)
        except JobsFailed as error:
            print(error)
            status = 1
    return status


if __name__ == "__main__":
    with ending():
        sys.exit(main(sys.argv[1:]))
