"""What Hydra calls: the launchers `slurm` and `local`, with the keys of their files in `conf/hydra/launcher/`.

`hydra_plugins.lookright_launchers` names them for Hydra, which loads that file with every command of any program: what
only a launch needs is imported then.
"""

import os
import shutil
import socket
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lookright.common.stopping import stopped
from lookright.config.folders import CONFIG_FOLDER
from lookright.errors import ConfigError, LookRightError
from lookright.launching import slurm
from lookright.launching.follow import JobsFailed, follow
from lookright.launching.jobs import Job, Launch, new_folder, objective_in


class JobsLauncher(Launcher):
    """What both launchers share: from overrides to the files of a launch, and what a sweeper is told at its end."""

    gpus_per_node: int | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs."""
        self.context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs; returns their objectives.

        Raises ConfigError before any, and JobsFailed naming every failure after all; a sweeper that searches is told
        of a failure job by job, and goes on.
        """
        setup_globals()
        launch = self._prepare(job_overrides, initial_job_idx)
        failed: dict[int, str] = {}
        try:
            self.run(launch)
        except JobsFailed as error:
            if self.config.hydra.sweeper._target_.endswith("BasicSweeper"):
                raise
            failed = error.jobs
        return [_done(job, failed.get(job.num)) for job in launch.jobs]

    @abstractmethod
    def offers_gpus(self) -> bool:
        """Whether there are GPUs where jobs would run."""

    @abstractmethod
    def run(self, launch: Launch) -> None:
        """Run the jobs that are written down."""

    def limits(self) -> dict[str, Any]:
        """Return what a supervisor is told beside its job."""
        return {}

    def _prepare(self, overrides: Sequence[Sequence[str]], first_num: int) -> Launch:
        """Plan all jobs, then write them down."""
        from lookright.config.check import check_config
        from lookright.launching.planning import Planner, command_of, flags_of

        check_config(OmegaConf.create({"hydra": {"launcher": self.config.hydra.launcher}}))
        module = command_of(self.task_function)
        jobs = Planner(self.config, self.context, self.gpus_per_node).jobs(overrides, first_num, self.offers_gpus)
        launch = Launch(
            folder=new_folder(Path(self.config.hydra.sweep.dir).absolute()),
            module=module,
            python=sys.executable,
            cwd=str(Path.cwd()),
            path=str(Path(sys.path[0]).absolute()),
            jobs=jobs,
            flags=flags_of(self.config, CONFIG_FOLDER),
            host=socket.gethostname(),
            pid=os.getpid(),
            **self.limits(),
        )
        launch.save()
        return launch


class SlurmJobs(JobsLauncher):
    """A job array; the keys are those of `conf/hydra/launcher/slurm.yaml`."""

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        time: str | int | None = None,
        mem: str | int | None = None,
        cpus_per_task: int | None = None,
        gpus_per_node: int | None = None,
        gpu_type: str | None = None,
        parallel: int | None = None,
        setup: Sequence[str] = (),
        options: Mapping[str, str | int] | None = None,
        signal_ahead: int = 120,
        max_requeues: int = 100,
        name: str = "lookright",
        wait: bool = True,
        poll: float = 10,
    ) -> None:
        self.gpus_per_node = gpus_per_node
        self.max_requeues = max_requeues
        self.wait = wait
        self.poll = poll
        self.options = slurm.SlurmOptions(
            partition=partition,
            account=account,
            qos=qos,
            constraint=constraint,
            time=time,
            mem=mem,
            cpus_per_task=cpus_per_task,
            gpu_type=gpu_type,
            parallel=parallel,
            setup=list(setup),
            options=dict(options or {}),
            signal_ahead=signal_ahead,
            name=name,
        )

    def offers_gpus(self) -> bool:
        """Return whether a node of the partition has GPUs."""
        return slurm.offers_gpus(self.options.partition)

    def limits(self) -> dict[str, Any]:
        """Return how long a job may take to stop, how often it is queued again, and its CPUs."""
        options = self.options
        return {
            "grace": options.signal_ahead,
            "max_requeues": self.max_requeues,
            "cpus_per_task": options.cpus_per_task,
        }

    def run(self, launch: Launch) -> None:
        """Submit; then follow, or tell how to. Raises Stopped where an interrupt ends the following."""
        sweeper = self.config.hydra.sweeper._target_
        if not self.wait and not sweeper.endswith("BasicSweeper"):
            raise ConfigError(
                f"hydra.launcher.wait=false, and {sweeper} waits for results; set hydra.launcher.wait=true"
            )
        try:
            ids = slurm.submit(self.options, launch)
        except ConfigError:
            # nothing was queued, and there is nothing to follow
            shutil.rmtree(launch.folder)
            raise
        how = f"follow: python -m lookright.launching {launch.sweep}"
        print(f"submitted {len(ids)} jobs: {', '.join(slurm.arrays(ids))}; {how}")
        if not self.wait:
            return
        try:
            follow(launch, self.poll)
        except KeyboardInterrupt as error:
            arrays = " ".join(slurm.arrays(ids))
            raise stopped(error, f"the jobs go on; {how}; end them: scancel {arrays}") from error


class LocalJobs(JobsLauncher):
    """Processes of this machine; the keys are those of `conf/hydra/launcher/local.yaml`."""

    def __init__(self, parallel: int = 1, poll: float = 1) -> None:
        if parallel < 1:
            raise ConfigError(f"hydra.launcher.parallel={parallel}; set 1 or more")
        self.parallel = parallel
        self.poll = poll

    def offers_gpus(self) -> bool:
        """Return whether this process sees a GPU."""
        from lookright.launching.local import visible_gpus

        return bool(visible_gpus())

    def run(self, launch: Launch) -> None:
        """Run all jobs."""
        from lookright.launching.local import run_here

        run_here(launch, self.parallel, self.poll)


def _done(job: Job, error: str | None) -> JobReturn:
    """What a sweeper is told of a job: the objective that it wrote to `summary.json`, None where it has none."""
    if error is not None:
        failed = JobReturn(overrides=job.overrides, status=JobStatus.FAILED)
        failed.return_value = LookRightError(error.strip())
        return failed
    done = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    done.return_value = objective_in(Path(job.folder))
    return done
