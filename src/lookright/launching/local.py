"""The jobs of a sweep on one machine, a few at a time, each with GPUs of its own."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lookright.common.stopping import stopped
from lookright.errors import ConfigError
from lookright.launching.follow import Watch, failures, follow
from lookright.launching.jobs import FAILED, FINISHED, WAITING, Job, Launch, Status, is_gone

STEP = 0.2
"""Seconds between two looks for a job that ended."""


def run_here(launch: Launch, parallel: int, poll: float) -> None:
    """Run the jobs that wait, `parallel` at a time, and show them; an interrupt stops those that run, which save.

    Raises ConfigError before any, JobsFailed after all, and Stopped where it was interrupted.
    """
    pool = LocalPool(launch, parallel)
    pool.start()
    try:
        follow(launch, poll, over=pool.over)
    except KeyboardInterrupt as error:
        print("stopping: each job saves first", flush=True)
        pool.stop()
        left = failures(launch, Watch(launch, patience=1).look())
        raise stopped(error, "\n".join(left) or "all jobs had finished") from error


def begun_again(launch: Launch, jobs: Sequence[Job]) -> Launch:
    """These jobs of a launch as ones of this process; those that did not finish wait, to go on in their folders.

    Raises ConfigError for a launch on SLURM, and for one that is at work.
    """
    if launch.slurm_ids():
        raise ConfigError(f"{launch.folder} is on SLURM, which begins its jobs again; leave out --go-on")
    views = Watch(launch, patience=1).look()
    if not is_gone(launch.host, launch.pid) or not all(view.over for view in views.values()):
        raise ConfigError(
            f"{launch.folder} is at work, or may be: its launcher is process {launch.pid} on {launch.host}; wait for "
            "it or end it, and go on there"
        )
    launch = replace(launch, host=socket.gethostname(), pid=os.getpid())
    launch.save()
    for job in jobs:
        status = launch.status(job.num)
        if status is not None and status.state != FINISHED:
            launch.set_status(job.num, replace(status, state=WAITING, error=None))
    return replace(launch, jobs=list(jobs))


class LocalPool:
    """Runs the jobs of a launch that wait; `stop` hands a signal on to those that run and starts no more."""

    def __init__(self, launch: Launch, parallel: int) -> None:
        self.launch = launch
        self.parallel = parallel
        # not asked for jobs that need none: the answer takes an import of torch
        self._free = visible_gpus() if any(job.resources.gpus_per_node for job in launch.jobs) else []
        self._waiting = [job for job in launch.jobs if _waits(launch.status(job.num))]
        self._running: dict[int, tuple[subprocess.Popen[bytes], Job, list[str]]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        check_fit(launch.jobs, len(self._free))

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def over(self) -> bool:
        """Whether nothing runs and nothing will."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """SIGTERM to every job that runs; returns when all have ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        told = False
        while self._running or (self._waiting and not self._stopping.is_set()):
            if self._stopping.is_set() and not told:
                told = True
                for process, _, _ in self._running.values():
                    process.terminate()
            if not self._stopping.is_set():
                self._start_what_fits()
            time.sleep(STEP)
            for num, (process, _, gpus) in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[num]
                    self._free += gpus
                    self._note_lost(num, process.returncode)

    def _start_what_fits(self) -> None:
        while self._waiting and len(self._running) < self.parallel:
            needed = self._waiting[0].resources.gpus_per_node
            if needed > len(self._free):
                return
            job = self._waiting.pop(0)
            gpus, self._free = self._free[:needed], self._free[needed:]
            command = [self.launch.python, "-m", "lookright.launching.supervise", str(self.launch.folder), str(job.num)]
            with self.launch.log(job.num).open("ab") as log:
                # a session of its own: an interrupt of the terminal reaches the launcher alone, which hands it on
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment_of(os.environ, gpus),
                    start_new_session=True,
                )
            self._running[job.num] = (process, job, gpus)

    def _note_lost(self, num: int, code: int) -> None:
        """A supervisor that could not even begin leaves no status."""
        if self.launch.status(num) is None:
            log = self.launch.log(num).read_text(errors="replace").strip().splitlines()
            error = f"did not start, exit code {code}: {log[-1] if log else ''}"
            self.launch.set_status(num, Status(state=FAILED, exit_code=code, error=error))


def _waits(status: Status | None) -> bool:
    return status is None or status.state == WAITING


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def check_fit(jobs: list[Job], num_gpus: int) -> None:
    """Raise ConfigError for a job that this machine can never run."""
    for job in jobs:
        if job.resources.nodes > 1:
            raise ConfigError(
                f"hydra/launcher=local, job {job.num}: trainer.num_nodes={job.resources.nodes}; "
                "this is one machine: set trainer.num_nodes=1, or hydra/launcher=slurm"
            )
        if job.resources.gpus_per_node > num_gpus:
            raise ConfigError(
                f"hydra/launcher=local, job {job.num} needs {job.resources.gpus_per_node} GPUs and {num_gpus} are "
                "visible; set trainer.devices, trainer=cpu or device=cpu"
            )


def environment_of(environment: Mapping[str, str], gpus: list[str]) -> dict[str, str]:
    """What a job sees: its GPUs, and nothing of a SLURM job around it, of which Lightning would take its ranks."""
    own = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    return own | {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else own
