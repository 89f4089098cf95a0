"""One job from its start to its end: hands signals on, tells what came of it, lets SLURM queue it again.

Run as `python -m lookright.launching.supervise LAUNCH_FOLDER JOB_NUMBER`, by the batch script or the local launcher.

- SIGUSR1 comes from SLURM ahead of the time limit: the processes of the job get SIGTERM, save and leave with 143, and
  the job is queued again under its number.
- SIGTERM and SIGINT come from `scancel`, from a preemption (SLURM queues the job again by itself) or from the local
  launcher: the same, and nothing is queued.
- A job that starts a second time has its folder in the environment (`jobs.GO_ON`), and goes on there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from lookright.launching.jobs import EXIT_STOPPED, FAILED, FINISHED, GO_ON, RUNNING, STOPPED, Job, Launch, Status

SPARE = 15
"""Seconds before the time limit by which a job that is to be queued again must have ended."""
TAIL = 20
"""Lines of the log that an error is told with where no process left word."""


class Supervisor:
    """Of one job. `run` returns the exit code of the whole."""

    def __init__(self, launch: Launch, num: int) -> None:
        self.launch = launch
        self.job: Job = launch.job(num)
        self.limit = False
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0

    def run(self) -> int:
        """Start the job, wait for it, write its status."""
        before = self.launch.status(self.job.num)
        if before is not None and before.state == FINISHED:
            return 0
        starts = 1 if before is None else before.starts + 1
        status = Status(state=RUNNING, starts=starts, where=socket.gethostname(), pid=os.getpid())
        for number, handler in ((signal.SIGUSR1, self._at_limit), *((one, self._at_stop) for one in _STOPS)):
            signal.signal(number, handler)
        self._clear()
        self.launch.set_status(self.job.num, status)
        again = "" if before is None else f", start {starts}"
        _say(f"job {self.job.num} on {status.where}{again}: {' '.join(self.job.overrides)}")
        code = self._wait(self._start(before is not None))
        if code == EXIT_STOPPED and not (self.stopped or self.limit) and self._records():
            # srun stopped the other ranks because of one that failed, and gives the highest exit code
            code = 1
        status = replace(status, exit_code=code) if code else replace(status, state=FINISHED, exit_code=0)
        if code:
            status = self._queued(status) if code == EXIT_STOPPED else self._failed(status)
        self.launch.set_status(self.job.num, status)
        return code

    def command(self) -> list[str]:
        """The processes of the job; several ranks are started by srun, of which Lightning reads who is who."""
        work = [self.launch.python, "-m", "lookright.launching.work", str(self.launch.folder), str(self.job.num)]
        needed = self.job.resources
        if needed.tasks == 1 or "SLURM_JOB_ID" not in os.environ:
            return work
        srun = ["srun", "--kill-on-bad-exit=1", f"--nodes={needed.nodes}", f"--ntasks={needed.tasks}"]
        srun.append(f"--ntasks-per-node={needed.tasks_per_node}")
        # srun does not take it from the job
        cpus = [] if self.launch.cpus_per_task is None else [f"--cpus-per-task={self.launch.cpus_per_task}"]
        return [*srun, *cpus, *work]

    def _start(self, again: bool) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != GO_ON}
        if again:
            environment[GO_ON] = str(Path(self.job.folder).absolute())
        # its own session: a signal to the batch script's group reaches it once, from here
        self._process = subprocess.Popen(self.command(), env=environment, start_new_session=True)
        if self.stopped or self.limit:
            self._hand_on()
        return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code, as a shell says it; a job that does not end ahead of its limit is killed."""
        while True:
            try:
                code = process.wait(1)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                if self.limit and time.monotonic() > self._deadline:
                    _say("the job does not stop, and is killed")
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return EXIT_STOPPED

    def _at_limit(self, number: int, frame: FrameType | None) -> None:
        if not self.limit:
            self.limit = True
            self._deadline = time.monotonic() + max(self.launch.grace - SPARE, 1)
            _say("the time limit is near: the job saves and stops")
            self._hand_on()

    def _at_stop(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped:
            self.stopped = True
            _say(f"{signal.Signals(number).name}: the job saves and stops")
            self._hand_on()

    def _hand_on(self) -> None:
        """SIGTERM to the processes of the job, wherever they run."""
        if self._process is None:
            return
        if self.command()[0] == "srun":
            # srun takes a signal as its own; scancel reaches the ranks, and leaves the batch script out
            subprocess.run(["scancel", "--signal=TERM", os.environ["SLURM_JOB_ID"]], check=False)
        else:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def _queued(self, status: Status) -> Status:
        """Stopped; queued again where that is ours to do."""
        if not self.limit or self.stopped:
            return replace(status, state=STOPPED)
        if status.starts > self.launch.max_requeues:
            return self._failed(
                status,
                f"it reached its time limit in start {status.starts}, and hydra.launcher.max_requeues is "
                f"{self.launch.max_requeues}; set it higher, or hydra.launcher.time",
            )
        # first the word, then the call: it ends this process
        self.launch.set_status(self.job.num, replace(status, state=STOPPED))
        done = subprocess.run(
            ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, capture_output=True, text=True
        )
        if done.returncode:
            return self._failed(
                status, f"its time limit came, and SLURM does not queue it again: {done.stderr.strip()}"
            )
        return replace(status, state=STOPPED)

    def _failed(self, status: Status, error: str | None = None) -> Status:
        """Tell the error in the log and in the run's folder."""
        details = ""
        if error is None:
            error, details = self._word(status.exit_code or 1)
        _say(f"job {self.job.num} failed: {error}")
        path = self.job.error_file
        path.parent.mkdir(parents=True, exist_ok=True)
        log = self.launch.log(self.job.num)
        path.write_text(f"{error}\n\n{details}\nlog: {log}\n", encoding="utf-8")
        return replace(status, state=FAILED, error=error)

    def _word(self, code: int) -> tuple[str, str]:
        """The first error that a process left word of, else how it ended and the end of its log."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in self._records()]
        if records:
            first = min(records, key=lambda record: record["time"])
            rank = f"rank {first['rank']}: " if self.job.resources.tasks > 1 else ""
            return rank + first["error"], first["details"]
        log = self.launch.log(self.job.num)
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:] if log.is_file() else []
        if code > 128:
            name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else str(code - 128)
            memory = ", as by the kernel where memory is short" if name == "SIGKILL" else ""
            return f"killed by {name}{memory}", "\n".join(tail)
        return f"ended with exit code {code}", "\n".join(tail)

    def _records(self) -> list[Path]:
        return sorted(self.launch.folder.glob(f"{self.job.num}.rank*.error"))

    def _clear(self) -> None:
        """What an earlier start left is no word of this one."""
        for path in (*self._records(), self.job.error_file):
            path.unlink(missing_ok=True)


_STOPS = (signal.SIGTERM, signal.SIGINT)


def _say(text: str) -> None:
    print(f"launcher: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(Supervisor(Launch.load(Path(sys.argv[1])), int(sys.argv[2])).run())
