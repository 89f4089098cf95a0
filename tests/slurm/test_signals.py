"""What SLURM does to a job and a job to SLURM, with a command that takes no time: `tests/launching/conftest.py`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lookright.launching import slurm as programs
from lookright.launching.jobs import Launch, Resources, Status
from lookright.launching.slurm import SlurmOptions, submit
from tests.launching.conftest import launch  # noqa: F401
from tests.slurm.cluster import Cluster, free_ports
from tests.slurm.conftest import until

pytestmark = pytest.mark.slurm
Make = Callable[..., Launch]
ONE_CPU = {"mem": 100, "cpus_per_task": 1, "time": 30, "signal_ahead": 60}


class Running:
    """One job that waits to be told to stop."""

    def __init__(self, made: Launch, slurm: Cluster, begun: Path, **options: str | int) -> None:
        self.made, self.slurm = made, slurm
        self.id = submit(SlurmOptions(**(ONE_CPU | options)), made)[0]
        ranks = [begun.with_name(f"{begun.name}{rank}") for rank in range(made.jobs[0].resources.tasks)]
        until(lambda: all(rank.exists() for rank in ranks), "the job's processes")

    def status(self) -> Status | None:
        return self.made.status(0)

    def assert_goes_on(self) -> None:
        until(lambda: self.slurm.state(self.id) == "COMPLETED", f"the end of {self.made.log(0)}")
        status = self.status()
        assert status is not None and (status.state, status.starts) == ("finished", 2)
        log = self.made.log(0).read_text()
        assert (
            log.count("before None")
            == log.count(f"before {self.made.job(0).folder}")
            == self.made.jobs[0].resources.tasks
        )


@pytest.fixture(autouse=True)
def _their_slurm(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture()
def waits(launch: Make, tmp_path: Path) -> Callable[..., Launch]:  # noqa: F811
    def make(code: int = 143, **options: Resources) -> Launch:
        return launch(["waits_once", str(code), str(tmp_path / "begun")], max_requeues=3, grace=60, **options)

    return make


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_signal_ahead_of_a_limit_reaches_every_process(
    tasks: int, waits: Callable[..., Launch], slurm: Cluster, tmp_path: Path
) -> None:
    """The signal that SLURM sends ahead of a limit, sent by hand."""
    job = Running(waits(resources=Resources(tasks_per_node=tasks)), slurm, tmp_path / "begun")
    slurm.ask("scancel", "--signal=USR1", "--batch", job.id)
    job.assert_goes_on()
    assert "the time limit is near" in job.made.log(0).read_text()


def test_a_limit(waits: Callable[..., Launch], slurm: Cluster, tmp_path: Path) -> None:
    job = Running(waits(), slurm, tmp_path / "begun", time=2)
    job.assert_goes_on()


def test_requeue(waits: Callable[..., Launch], slurm: Cluster, tmp_path: Path) -> None:
    job = Running(waits(), slurm, tmp_path / "begun")
    slurm.ask("scontrol", "requeue", job.id)
    job.assert_goes_on()


def test_preemption(waits: Callable[..., Launch], slurm: Cluster, tmp_path: Path) -> None:
    job = Running(waits(), slurm, tmp_path / "begun", partition="low")
    other = slurm.ask("sbatch", "--parsable", "--cpus-per-task=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: slurm.state(other.strip()) == "COMPLETED", "the job that comes first")
    job.assert_goes_on()


def test_scancel_is_final(waits: Callable[..., Launch], slurm: Cluster, tmp_path: Path) -> None:
    job = Running(waits(), slurm, tmp_path / "begun")
    slurm.ask("scancel", job.id)
    until(lambda: slurm.state(job.id) == "CANCELLED", "the end")
    until(lambda: (status := job.status()) is not None and status.state == "stopped", "its word")
    assert programs.states({0: job.id})[0][0] == "CANCELLED"


def test_a_controller_that_is_away_says_nothing_of_jobs(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike one that has forgotten them."""
    assert programs.states({0: "999999_0"}) == {}
    config = (slurm.folder / "slurm.conf").read_text()
    # where nothing listens
    (tmp_path / "slurm.conf").write_text(re.sub(r"(SlurmctldPort)=\d+", rf"\1={free_ports(1)[0]}", config))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert programs.states({0: "999999_0"}) is None


def test_a_failure_is_one_for_slurm_too(launch: Make, slurm: Cluster) -> None:  # noqa: F811
    made = launch(["refused"], ["killed"], ["ok"])
    ids = submit(SlurmOptions(**ONE_CPU), made)
    until(lambda: all(slurm.state(one) in ("FAILED", "COMPLETED") for one in ids.values()), "the end")
    assert [slurm.state(ids[num]) for num in range(3)] == ["FAILED", "FAILED", "COMPLETED"]
    errors = [status.error for num in range(3) if (status := made.status(num))]
    assert errors == ["data.path=x: no such file", "killed by SIGKILL, as by the kernel where memory is short", None]


def test_a_rank_that_fails_ends_all(launch: Make, slurm: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """One rank refuses while the other waits: the job is over at once, with that rank's error."""
    made = launch(["rank_1_refuses", "143", str(tmp_path / "begun")], resources=Resources(tasks_per_node=2))
    job = submit(SlurmOptions(**ONE_CPU), made)[0]
    until(lambda: slurm.state(job) == "FAILED", "the end")
    status = made.status(0)
    assert status is not None and (status.state, status.error) == ("failed", "rank 1: data.path=x: no such file")
    assert not (tmp_path / "begun1").exists() and (tmp_path / "begun0").exists()
