"""One process of a job: runs the command as its own command line would, and leaves word of why it failed.

Run as `python -m lookright.launching.work LAUNCH_FOLDER JOB_NUMBER`, on SLURM once for every rank.
"""

import os
import runpy
import sys
import time
import traceback
from pathlib import Path

from lookright.config.swept import Place
from lookright.launching.jobs import EXIT_STOPPED, Launch, write


def work(launch: Launch, num: int) -> int:
    """Run the command; returns the exit code: 0 is finished, 143 stopped by a signal, all else failed."""
    _enter(launch, num)
    try:
        runpy.run_module(launch.module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        # a command that is done returns; one that is told to stop leaves by an exit that may well say 0
        if error.code in (None, 0, EXIT_STOPPED):
            return EXIT_STOPPED
        cause = error.__context__
        _leave_word(launch, num, str(error.code if cause is None else cause))
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        _leave_word(launch, num, "".join(traceback.format_exception_only(error)).strip(), traceback.format_exc())
        return 1
    return 0


def _enter(launch: Launch, num: int) -> None:
    """Folder, module path and arguments as where the sweep was started."""
    os.chdir(launch.cwd)
    if launch.path:
        sys.path.insert(0, launch.path)
        # processes that this one starts look there too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [launch.path, os.environ.get("PYTHONPATH")]))
    Place(folder=str(launch.folder.parents[1]), overrides=launch.job(num).swept).tell()
    sys.argv = [launch.module, *launch.flags, *launch.job(num).overrides]


def _leave_word(launch: Launch, num: int, error: str, details: str = "") -> None:
    """For the supervisor, which hears of several ranks and takes the first."""
    rank = int(os.environ.get("SLURM_PROCID", 0))
    record = {"error": error, "details": details, "rank": rank, "time": time.time()}
    write(launch.folder / f"{num}.rank{rank}.error", record)


if __name__ == "__main__":
    sys.exit(work(Launch.load(Path(sys.argv[1])), int(sys.argv[2])))
