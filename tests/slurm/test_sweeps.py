"""Sweeps on a real SLURM: arrays, shards, ranks, failures, and a launcher that is gone."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lookright.launching.jobs import Launch
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import finish, until

pytestmark = pytest.mark.slurm
Command = Callable[..., "subprocess.Popen[str]"]


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture()
def run(small_run: list[str]) -> list[str]:
    return [*small_run, "trainer.max_steps=2"]


def test_two_by_two(command: Command, on_slurm: list[str], run: list[str], slurm: Cluster, tmp_path: Path) -> None:
    code, output = finish(command("train", *on_slurm, *run, "loss.alpha=0,1", "loss.gamma=0.1,1", "output=sweep"))
    assert code == 0, output
    assert "submitted 4 jobs" in output and "4 finished" in output
    launch = Launch.load(tmp_path / "sweep" / "launch" / "1")
    ids = launch.slurm_ids()
    array = ids[0].partition("_")[0]
    assert ids == {num: f"{array}_{num}" for num in range(4)}
    assert [job.swept for job in launch.jobs] == [
        [f"loss.alpha={alpha}", f"loss.gamma={gamma}"] for alpha in (0, 1) for gamma in (0.1, 1)
    ]
    folders = [tmp_path / "sweep" / str(num) for num in range(4)]
    assert [json.loads((folder / "summary.json").read_text())["steps"] for folder in folders] == [2] * 4
    assert len({weights(folder) for folder in folders}) == 4
    # the same job by hand
    code, output = finish(command("train", *run, "loss.alpha=1", "loss.gamma=0.1", "output=alone"))
    assert code == 0, output
    assert weights(tmp_path / "alone") == weights(folders[2])


def test_shards_write_to_one_folder(command: Command, on_slurm: list[str], llava_weights: Path, tmp_path: Path) -> None:
    given = [f"backbone.path={llava_weights}", "num_prompts=12", "batch_size=2", "decode.max_new_tokens=3"]
    given += ["device=cpu", "selection=random"]
    code, output = finish(command("generate", *on_slurm, *given, "shard.count=2", "shard.index=0,1", "output=shards"))
    assert code == 0, output
    code, output = finish(command("generate", *given, "shard.count=2", "stage=select", "output=shards"))
    assert code == 0, output
    code, output = finish(command("generate", *given, "output=whole"))
    assert code == 0, output
    for name in ("instructions.jsonl", "answers.jsonl", "preferences.jsonl"):
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_ranks_by_srun(command: Command, on_slurm: list[str], run: list[str], tmp_path: Path) -> None:
    given = [*run, "trainer.devices=2", "data.val_fraction=0"]
    code, output = finish(command("train", *on_slurm, *given, "output=srun"))
    assert code == 0, output
    log = Launch.load(tmp_path / "srun" / "launch" / "1").log(0).read_text()
    assert "MEMBER: 1/2" in log and "MEMBER: 2/2" in log
    # the same ranks started by Lightning
    code, output = finish(command("train", "-m", "hydra/launcher=local", *given, "output=local"))
    assert code == 0, output
    assert weights(tmp_path / "srun" / "0") == weights(tmp_path / "local" / "0")


def test_failures_are_named_and_lose_no_other(
    command: Command, on_slurm: list[str], run: list[str], pairs_file: Path, slurm: Cluster, tmp_path: Path
) -> None:
    given = [item for item in run if not item.startswith("data.path=")]
    process = command("train", *on_slurm, *given, f"data.path=gone.jsonl,{pairs_file},lost.jsonl", "output=sweep")
    code, output = finish(process)
    assert code == 2, output
    assert "2 of 3 jobs did not finish" in output
    launch = Launch.load(tmp_path / "sweep" / "launch" / "1")
    for num, name in ((0, "gone.jsonl"), (2, "lost.jsonl")):
        (line,) = [one for one in output.splitlines() if one.startswith(f"job {num} ")]
        assert f"{name}: no such file" in line and str(launch.log(num)) in line
        assert f"{name}: no such file" in (tmp_path / "sweep" / str(num) / "error.txt").read_text()
        assert f"error: data.path={name}: no such file" in launch.log(num).read_text()
        assert slurm.state(launch.slurm_ids()[num]) == "FAILED"
    assert (tmp_path / "sweep" / "1" / "summary.json").is_file()
    assert not (tmp_path / "sweep" / "1" / "error.txt").exists()


def test_a_rank_that_fails_ends_all(command: Command, on_slurm: list[str], run: list[str], tmp_path: Path) -> None:
    given = [item for item in run if not item.startswith("data.path=")]
    process = command("train", *on_slurm, *given, "data.path=gone.jsonl", "trainer.devices=2", "output=sweep")
    code, output = finish(process)
    assert code == 2, output
    assert "gone.jsonl: no such file" in output and ": rank " in output


def test_a_launcher_that_is_killed(command: Command, on_slurm: list[str], run: list[str], tmp_path: Path) -> None:
    process = command("train", *on_slurm, *run, "loss.alpha=0,1", "output=sweep")
    until(lambda: (tmp_path / "sweep" / "launch" / "1" / "slurm.json").is_file(), "submitted")
    process.send_signal(signal.SIGKILL)
    finish(process)
    code, output = finish(command("lookright.launching", "sweep"))
    assert code == 0, output
    assert "2 finished" in output
    assert all((tmp_path / "sweep" / str(num) / "summary.json").is_file() for num in range(2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hydra.launcher.partition=nowhere"], r"hydra.launcher.partition=nowhere does not exist; valid: low, main"),
        (["trainer=gpu"], "has 1 GPUs; set trainer=cpu"),
        (["hydra.launcher.constraint=a100"], "hydra.launcher.constraint=a100 is no feature of any node there"),
        (["hydra.launcher.mem=900G"], "no node has what a job asks for: .*mem=900G on each"),
        (["hydra.launcher.time=soon"], "hydra.launcher.time=soon is no time, or"),
    ],
)
def test_what_sbatch_refuses(
    command: Command, on_slurm: list[str], run: list[str], slurm: Cluster, given: list[str], message: str
) -> None:
    code, output = finish(command("train", *on_slurm, *run, *given, "output=sweep"))
    assert code == 2 and "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
