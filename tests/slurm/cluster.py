"""A SLURM of one node in a folder of its own: munged, slurmctld and slurmd with their own sockets, ports and state."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
_NOWHERE = subprocess.DEVNULL
WAIT = 30
"""Seconds in which the daemons answer."""
CONFIG = """ClusterName=lookright
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=3,bf_interval=3
ReturnToService=2
KillWait=20
OverTimeLimit=0
JobRequeue=1
# a job that runs in `low` makes place for one in `main`, and is queued again
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=20000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
MinJobAge=3600
"""


def missing() -> str | None:
    """Why no SLURM can be started here, None where it can."""
    absent = [name for name in NEEDED if find(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root alone"


def find(name: str) -> str | None:
    """A program, in the folders of the administrator too."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@dataclass(slots=True, frozen=True)
class Cluster:
    """A running SLURM; `environment` is what a command needs to find it."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """What one of SLURM's programs says."""
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """SLURM's word for a job, `PENDING` and so on."""
        return self.ask("squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%T").strip()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons and end them, with all jobs."""
    for name in ("ctld", "d", "munge"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=free_ports(2)))
    running = Cluster(folder, _environment(config))
    daemons = []
    try:
        daemons.append(_munged(folder / "munge"))
        daemons.append(_start(["slurmctld", "-D", "-f", str(config)], running))
        daemons.append(_start(["slurmd", "-D", "-f", str(config)], running))
        _answer(running)
        yield running
    finally:
        _end_jobs(running)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _end_jobs(running: Cluster) -> None:
    """End what still runs: a job outlives its daemons."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        for how in ([], ["--full", "--signal=KILL"]):
            subprocess.run(["scancel", *how, "--user=root"], env=running.environment, stderr=_NOWHERE)
        left = subprocess.run(["squeue", "--noheader"], env=running.environment, capture_output=True, timeout=WAIT)
        if not left.stdout.strip():
            return
        time.sleep(0.5)


def _environment(config: Path) -> dict[str, str]:
    """This process's, with nothing of a SLURM around it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    return kept | {"SLURM_CONF": str(config)}


def _munged(folder: Path) -> "subprocess.Popen[bytes]":
    """The daemon of signatures, with a key of its own."""
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    files = [f"--{name}={folder / file}" for name, file in _MUNGE_FILES.items()]
    daemon = subprocess.Popen([find("munged"), "--foreground", "--force", *files], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT
    while not (folder / "socket").exists():
        assert daemon.poll() is None and time.monotonic() < deadline, "munged does not start"
        time.sleep(0.1)
    return daemon


_MUNGE_FILES = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}


def _start(command: list[str], running: Cluster) -> "subprocess.Popen[bytes]":
    program = find(command[0])
    assert program is not None
    quiet = subprocess.DEVNULL
    return subprocess.Popen([program, *command[1:]], env=running.environment, stdout=quiet, stderr=quiet)


def _answer(running: Cluster) -> None:
    """Wait for a node that takes jobs."""
    deadline = time.monotonic() + WAIT
    while True:
        done = subprocess.run(
            ["sinfo", "--noheader", "--partition=main", "--format=%T"],
            env=running.environment,
            text=True,
            capture_output=True,
        )
        if done.stdout.strip() == "idle":
            return
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-1000:] for path in running.folder.glob("*.log"))
            raise AssertionError(f"no node comes up: {done.stdout} {done.stderr}\n{logs}")
        time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
