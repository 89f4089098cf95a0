"""Jobs that are stopped in the middle: requeued, over their limit, preempted, cancelled. Those that go on end alike."""

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lookright.launching.jobs import Launch
from lookright.training.checkpoints import steps_in
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import environment_of, finish, until

pytestmark = pytest.mark.slurm
Command = Callable[..., "subprocess.Popen[str]"]
STEPS = 100


@pytest.fixture()
def slow_run(small_run: list[str], slow: Path) -> list[str]:
    """A hundred steps of two seconds each in the first start, a checkpoint after each second one."""
    given = [f"trainer.max_steps={STEPS}", "trainer.max_epochs=100", "trainer.checkpoint_every=2", "loss/term=[nap]"]
    return [*small_run, *given, "data.val_fraction=0", "seed=3"]


@pytest.fixture(scope="module")
def unbroken() -> dict[str, bytes]:
    return {}


def mine(folder: Path) -> list[str]:
    """What stands before all overrides."""
    return ["--config-dir", str(folder / "conf")]


def outcome(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("adapter/adapter_model.safetensors", "metrics.csv")}


@pytest.fixture()
def assert_unbroken(
    command: Command, slow_run: list[str], slow: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> Callable[[Path], None]:
    """A folder holds what a run that nothing stopped leaves, to the byte."""

    def check(folder: Path) -> None:
        if not unbroken:
            environment = environment_of(slow) | {"LOOKRIGHT_NAP": ""}
            code, output = finish(command("train", *mine(slow), *slow_run, "output=unbroken", **environment))
            assert code == 0, output
            unbroken.update(outcome(tmp_path / "unbroken"))
        assert outcome(folder) == unbroken

    return check


class Stopped:
    """A sweep of one job that trains when it is looked at."""

    def __init__(self, process: "subprocess.Popen[str]", sweep: Path) -> None:
        self.process = process
        self.folder = sweep / "0"
        checkpoints = self.folder / "checkpoints"
        until(lambda: bool(steps_in(checkpoints)) or process.poll() is not None, "a checkpoint")
        assert process.poll() is None, process.communicate()[0]
        self.launch = Launch.load(sweep / "launch" / "1")
        self.id = self.launch.slurm_ids()[0]

    def assert_went_on(self, check: Callable[[Path], None]) -> None:
        code, output = finish(self.process)
        log = self.launch.log(0).read_text()
        assert code == 0, output + log
        status = self.launch.status(0)
        assert status is not None and status.state == "finished" and status.starts >= 2
        assert "start 2" in log and "Restored all states" in log
        assert not (self.folder / "error.txt").exists()
        check(self.folder)


def test_requeue_in_the_middle(
    command: Command,
    on_slurm: list[str],
    slow_run: list[str],
    slow: Path,
    slurm: Cluster,
    tmp_path: Path,
    assert_unbroken: Callable[[Path], None],
) -> None:
    process = command("train", *mine(slow), *on_slurm, *slow_run, "output=sweep", **environment_of(slow))
    job = Stopped(process, tmp_path / "sweep")
    slurm.ask("scontrol", "requeue", job.id)
    job.assert_went_on(assert_unbroken)


def test_over_its_limit(
    command: Command,
    on_slurm: list[str],
    slow_run: list[str],
    slow: Path,
    tmp_path: Path,
    assert_unbroken: Callable[[Path], None],
) -> None:
    limit = ["hydra.launcher.time=4", "hydra.launcher.signal_ahead=60"]
    process = command("train", *mine(slow), *on_slurm, *slow_run, *limit, "output=sweep", **environment_of(slow))
    job = Stopped(process, tmp_path / "sweep")
    job.assert_went_on(assert_unbroken)
    assert "the time limit is near" in job.launch.log(0).read_text()


def test_two_ranks_at_their_limit(
    command: Command, on_slurm: list[str], slow_run: list[str], slow: Path, slurm: Cluster, tmp_path: Path
) -> None:
    """The signal that SLURM sends ahead of a limit, sent by hand: every rank must hear of it."""
    given = [*slow_run, "trainer.devices=2", "hydra.launcher.signal_ahead=60"]
    process = command("train", *mine(slow), *on_slurm, *given, "output=sweep", **environment_of(slow))
    job = Stopped(process, tmp_path / "sweep")
    slurm.ask("scancel", "--signal=USR1", "--batch", job.id)
    code, output = finish(process)
    log = job.launch.log(0).read_text()
    assert code == 0, output + log
    assert "start 2" in log and "MEMBER: 2/2" in log and "Restored all states" in log
    with (job.folder / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(STEPS))


def test_a_job_that_is_preempted(
    command: Command,
    on_slurm: list[str],
    slow_run: list[str],
    slow: Path,
    slurm: Cluster,
    tmp_path: Path,
    assert_unbroken: Callable[[Path], None],
) -> None:
    low = "hydra.launcher.partition=low"
    process = command("train", *mine(slow), *on_slurm, *slow_run, low, "output=sweep", **environment_of(slow))
    job = Stopped(process, tmp_path / "sweep")
    other = slurm.ask("sbatch", "--parsable", "--cpus-per-task=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 5")
    until(lambda: slurm.state(other.strip()) == "COMPLETED", "the job that comes first")
    job.assert_went_on(assert_unbroken)


def test_scancel_is_final(
    command: Command, on_slurm: list[str], slow_run: list[str], slow: Path, slurm: Cluster, tmp_path: Path
) -> None:
    process = command("train", *mine(slow), *on_slurm, *slow_run, "output=sweep", **environment_of(slow))
    job = Stopped(process, tmp_path / "sweep")
    slurm.ask("scancel", job.id)
    code, output = finish(process)
    assert code == 2, output
    assert "1 of 1 jobs did not finish" in output and "SLURM: cancelled" in output
    assert slurm.state(job.id) == "CANCELLED"
    # by hand it goes on
    code, output = finish(
        command("train", *mine(slow), "resume=sweep/0", **environment_of(slow) | {"LOOKRIGHT_NAP": ""})
    )
    assert code == 0, output
