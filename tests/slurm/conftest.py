"""A SLURM for the whole session, and small runs that it is given."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, cluster, missing

ROOT = Path(__file__).parents[2]
LIMIT = 900
"""Seconds that a command or a state of a job is waited for."""
# a step of the first start naps while the file LOOKRIGHT_NAP is there; a job that goes on does not
SLOW_TERM = '''
import os
import time

from lookright.launching.jobs import GO_ON
from lookright.losses.base import Term


class Nap(Term):
    """Adds nothing, slowly."""

    def __call__(self, scores):
        if GO_ON not in os.environ and os.path.exists(os.environ.get("LOOKRIGHT_NAP", "")):
            time.sleep(2)
        return 0 * scores.policy_chosen.logps
'''
SLOW_YAML = """# @package loss.terms
nap:
  _target_: lookright.losses.composite.Weighted
  weight: 1.0
  term:
    _target_: nap.Nap
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need SLURM."""
    why = missing()
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slurm") and why is not None:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """SLURM with 4 CPUs and partitions main and low."""
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        running.environment["OMP_NUM_THREADS"] = "1"
        yield running


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's own, with a term whose steps take a second: `+loss/term=nap`."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "nap.py").write_text(SLOW_TERM)
    (folder / "conf" / "loss" / "term").mkdir(parents=True)
    (folder / "conf" / "loss" / "term" / "nap.yaml").write_text(SLOW_YAML)
    (folder / "naps").touch()
    return folder


@pytest.fixture()
def command(slurm: Cluster, tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start one of the commands as on a login node: command("train", "-m", ...)."""

    def start(name: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        place = [sys.executable, "-m", name] if "." in name else [sys.executable, str(ROOT / f"{name}.py")]
        return subprocess.Popen(
            [*place, *arguments],
            cwd=tmp_path,
            env=slurm.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


@pytest.fixture(scope="session")
def on_slurm() -> list[str]:
    """Overrides for small jobs."""
    small = {"mem": 2000, "cpus_per_task": 1, "time": 30, "poll": 1}
    return ["-m", "hydra/launcher=slurm", *(f"hydra.launcher.{key}={value}" for key, value in small.items())]


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and everything that was printed."""
    output, _ = process.communicate(timeout=LIMIT)
    return process.returncode, output


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT} s"
        time.sleep(0.3)


def environment_of(folder: Path) -> dict[str, str]:
    """Makes steps of `nap` slow, and finds it."""
    path = os.environ.get("PYTHONPATH", "")
    return {"LOOKRIGHT_NAP": str(folder / "naps"), "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), path]))}
