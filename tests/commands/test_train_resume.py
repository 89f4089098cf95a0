"""A run that was killed goes on to exactly the weights and metrics of one that was not."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.backbones.adapter_files import check_adapter
from lookright.commands import train as training
from lookright.commands.run_folder import summarise, write_summary
from lookright.commands.train import train
from lookright.common.locks import locked
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError, LookRightError, Stopped
from lookright.launching.jobs import GO_ON
from lookright.training.checkpoints import NUM_RANKS, newest_whole, num_ranks_of, steps_in
from lookright.training.preference import PreferenceModule

Compose = Callable[..., DictConfig]


class Killed(Exception):
    """Stands for a signal."""


def run_until(monkeypatch: pytest.MonkeyPatch, config: DictConfig, num_batches: int) -> None:
    """Train and die in the training step after `num_batches`."""
    step, seen = PreferenceModule.training_step, []

    def dying(self: PreferenceModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(seen) == num_batches:
            raise Killed
        seen.append(batch_idx)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PreferenceModule, "training_step", dying)
        train(config)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(folder: Path, reference: Path) -> None:
    expected, found = adapter(reference), adapter(folder)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), (name, (expected[name] - found[name]).abs().max())
    assert rows(folder) == rows(reference)
    assert (folder / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def settings(small_run: list[str]) -> list[str]:
    """Twelve pairs train in six batches, three optimiser steps an epoch."""
    return [*small_run, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2", "trainer.checkpoint_every=1"]


@pytest.fixture(scope="module")
def unbroken(composed: Compose, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    summary = train(composed("train", *settings, f"output={folder}"))
    assert summary["steps"] == summary["planned_steps"] == 6
    return folder


@pytest.mark.parametrize(
    ("num_batches", "num_workers"),
    [
        (3, 0),  # in the middle of an accumulation
        (6, 0),  # between two epochs
        (9, 1),  # in the second epoch, whose order a worker must know from the start
        (11, 0),
    ],
)
def test_resumed_run_is_exact(
    num_batches: int,
    num_workers: int,
    composed: Compose,
    settings: list[str],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = composed("train", *settings, f"output={tmp_path}", f"data.num_workers={num_workers}")
    run_until(monkeypatch, config, num_batches)
    assert not (tmp_path / "adapter").exists()
    begun = (tmp_path / "made_by.json").read_bytes()
    train(composed("train", f"resume={tmp_path}"))
    assert_same_run(tmp_path, unbroken)
    assert (tmp_path / "made_by.json").read_bytes() == begun


def test_resume_takes_no_other_override(composed: Compose, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"resume={unbroken}", "seed=1"]
    monkeypatch.setattr("lookright.commands.run_folder.given_overrides", lambda: given)
    with pytest.raises(ConfigError, match=r"resume takes the config of .*; remove seed=1"):
        train(composed("train", *given))


def test_a_run_goes_on_with_its_own_data_or_not_at_all(
    composed: Compose, settings: list[str], pairs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pairs(tmp_path / "pairs")
    given = [item for item in settings if not item.startswith("data.path=")]
    run_until(monkeypatch, composed("train", *given, f"data.path={path}", f"output={tmp_path / 'out'}"), 5)
    lines = path.read_text()
    path.write_text("".join(lines.splitlines(keepends=True)[::-1]))
    message = f"data.path: {path} is not what resume={tmp_path / 'out'} was made of .*, or start anew with another"
    with pytest.raises(ConfigError, match=message):
        train(composed("train", f"resume={tmp_path / 'out'}"))
    path.write_text(lines)
    assert train(composed("train", f"resume={tmp_path / 'out'}"))["steps"] == 6


def test_other_packages_of_a_later_start_are_noted_once(
    composed: Compose, unbroken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    begun = read_made_by(folder)
    replace(begun, versions=begun.versions | {"peft": "0.1"}).write(folder)
    for _ in range(2):
        train(composed("train", f"resume={folder}"))
    told = f"peft was 0.1, is {begun.versions['peft']}"
    assert caplog.messages.count(f"resume={folder}: {told}") == 2
    after = read_made_by(folder)
    assert [line.partition(": ")[2] for line in after.went_on] == [told] and after.overrides == begun.overrides
    # of a version that told nothing, the record is that of this start
    replace(begun, versions={}, inputs={}).write(folder)
    train(composed("train", f"resume={folder}"))
    assert read_made_by(folder).inputs == begun.inputs


def test_resuming_a_finished_run_keeps_what_it_measured(
    composed: Compose, settings: list[str], unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    before = (folder / "summary.json").read_bytes()
    assert json.loads(before)["metrics"]
    train(composed("train", f"resume={folder}"))
    assert (folder / "summary.json").read_bytes() == before
    assert_same_run(folder, unbroken)


KILLED = """
import os, signal
from pathlib import Path

from lookright.commands import cli
from lookright.commands import train as training

replace = Path.replace


def deadly(self, target):
    if self.name == ".adapter.partial":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)


Path.replace = deadly
cli.start("train", training.job)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_while_its_adapter_was_replaced_goes_on(
    composed: Compose, unbroken: Path, tmp_path: Path
) -> None:
    """Neither adapter lies under the name then, and nobody can take half of each."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    command = [sys.executable, "-c", KILLED, f"resume={folder}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    with pytest.raises(ConfigError, match=f"adapter={folder / 'adapter'} holds no adapter_config.json"):
        check_adapter(str(folder / "adapter"))
    check_adapter(str(folder / ".adapter.before"))
    train(composed("train", f"resume={folder}"))
    assert_same_run(folder, unbroken)
    assert not [one.name for one in folder.iterdir() if one.name.startswith(".adapter")]


def test_a_job_that_starts_again_goes_on_in_its_own_folder_alone(
    composed: Compose, settings: list[str], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launcher says of a job: which folder it wrote to before it was stopped."""
    given, other = [*settings, f"output={tmp_path / 'run'}"], tmp_path / "other"
    run_until(monkeypatch, composed("train", *given), 3)
    monkeypatch.setenv(GO_ON, str(other))
    with pytest.raises(ConfigError, match="holds a run already"):
        train(composed("train", *given))
    monkeypatch.setenv(GO_ON, str(tmp_path / "run"))
    # its command line is that of its first start
    monkeypatch.setattr("lookright.commands.run_folder.given_overrides", lambda: given)
    train(composed("train", *given))
    assert_same_run(tmp_path / "run", unbroken)


def test_a_job_that_had_saved_nothing_begins_anew(
    composed: Compose, settings: list[str], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*settings, f"output={tmp_path}"]
    run_until(monkeypatch, composed("train", *given), 1)
    monkeypatch.setenv(GO_ON, str(tmp_path))
    train(composed("train", *given))
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize(
    ("given", "moments"),
    [
        # once an epoch: where one ends the next one's order is known to workers too
        (["trainer.checkpoint_every=null", "data.num_workers=1"], [9]),
        # with a bound on steps Lightning restarts otherwise where an epoch ends
        (["trainer.checkpoint_every=null", "trainer.max_steps=6"], [8, 2]),
        # killed again, in the epoch that it went on with
        (["trainer.checkpoint_every=3"], [7, 3]),
    ],
)
def test_a_run_goes_on_from_the_end_of_an_epoch(
    given: list[str],
    moments: list[int],
    composed: Compose,
    settings: list[str],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = composed("train", *settings, *given, f"output={tmp_path}")
    for moment in moments:
        run_until(monkeypatch, config, moment)
        config = composed("train", f"resume={tmp_path}")
    train(config)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize(("number", "moment", "step"), [(signal.SIGTERM, 2, 2), (signal.SIGUSR2, 5, 3)])
def test_a_signal_stops_behind_the_step_and_the_run_goes_on(
    number: int,
    moment: int,
    step: int,
    composed: Compose,
    settings: list[str],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first batch of a step, and in the last one of an epoch, behind which comes a validation."""
    training_step, seen = PreferenceModule.training_step, []

    def signalled(self: PreferenceModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(seen) == moment:
            os.kill(os.getpid(), number)
        seen.append(batch_idx)
        return training_step(self, batch, batch_idx)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(PreferenceModule, "training_step", signalled)
        train(composed("train", *settings, "trainer.checkpoint_every=null", f"output={tmp_path}"))
    assert stopped.value.exit_code == 143 and signal.getsignal(number) == before
    told = f"{signal.Signals(number).name}: stopped after step {step}, which {tmp_path}/checkpoints/step={step}.ckpt "
    assert str(stopped.value) == f"{told}holds; go on with: python train.py resume={tmp_path}"
    train(composed("train", f"resume={tmp_path}"))
    assert_same_run(tmp_path, unbroken)


def test_a_torn_checkpoint_is_told_and_the_one_before_it_taken(
    composed: Compose, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    newest, before = steps_in(folder / "checkpoints")
    os.truncate(newest, newest.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"step=6.ckpt cannot be read .*; the one before it is taken"):
        assert newest_whole(folder) == before
    train(composed("train", f"resume={folder}"))
    assert_same_run(folder, unbroken)
    os.truncate(before, 0)
    os.truncate(newest, 0)
    with pytest.raises(ConfigError, match=r"holds no whole checkpoints/step=N.ckpt; set resume"):
        train(composed("train", f"resume={folder}"))


def test_checkpoints_by_the_clock_and_a_run_killed_before_its_adapter(
    composed: Compose, settings: list[str], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["trainer.checkpoint_every=null", "trainer.checkpoint_minutes=1e-9", "trainer.max_steps=5"]
    stray = tmp_path / "checkpoints" / "step=4.ckpt.1.tmp"
    stray.parent.mkdir()
    stray.touch()

    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "_save", dying)
        train(composed("train", *settings, *given, f"output={tmp_path}"))
    assert [path.name for path in steps_in(tmp_path / "checkpoints")] == ["step=5.ckpt", "step=4.ckpt"]
    assert len(list(stray.parent.iterdir())) == 2
    metrics = train(composed("train", f"resume={tmp_path}"))["metrics"]
    # of the validation that was over when it was killed
    assert metrics["val/loss"] == float(rows(tmp_path)[3]["val/loss"]) and "train/loss" in metrics


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights(
    composed: Compose, settings: list[str], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second batch of the second step, of which the first one's gradients are in no checkpoint."""
    score_batch, seen = PreferenceModule.score_batch, []

    def broken(self: PreferenceModule, batch: Any, **options: Any) -> Any:
        loss, metrics = score_batch(self, batch, **options)
        seen.append(batch.ids)
        return (loss * float("nan") if len(seen) == 4 else loss), metrics

    with monkeypatch.context() as patch, pytest.raises(LookRightError) as error:
        patch.setattr(PreferenceModule, "score_batch", broken)
        train(composed("train", *settings, "trainer.checkpoint_every=null", f"output={tmp_path}"))
    told = f"loss is nan in step 2, on the records {', '.join(seen[3])}; {tmp_path}/checkpoints/step=1.ckpt holds"
    assert str(error.value).startswith(told)
    train(composed("train", f"resume={tmp_path}"))
    assert_same_run(tmp_path, unbroken)


def test_a_gradient_that_is_no_number_ends_the_run_too(
    composed: Compose, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights would be none any more, and the next loss would come too late."""
    score_batch = PreferenceModule.score_batch

    def broken(self: PreferenceModule, batch: Any, **options: Any) -> Any:
        loss, metrics = score_batch(self, batch, **options)
        return loss + (loss * 0).sqrt(), metrics

    monkeypatch.setattr(PreferenceModule, "score_batch", broken)
    with pytest.raises(LookRightError, match=r"^gradient is nan in step 1, on the records .*; no step was taken"):
        train(composed("train", *settings, f"output={tmp_path}"))
    assert not (tmp_path / "checkpoints").exists()


def test_out_of_memory_names_the_batch_and_what_to_lower(
    composed: Compose, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def full(self: PreferenceModule, batch: Any, batch_idx: int) -> torch.Tensor:
        batches.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(PreferenceModule, "training_step", full)
    with pytest.raises(LookRightError) as error:
        train(composed("train", *settings, f"output={tmp_path}"))
    ids, num_tokens = ", ".join(batches[0].ids), batches[0].input_ids.numel()
    told = f"out of memory in step 1, on the records {ids}, a row of {num_tokens} tokens: CUDA out of memory. Tried to"
    assert str(error.value).startswith(told) and "data.batch_size" in str(error.value)


def test_a_second_process_is_refused_before_records_are_read(
    composed: Compose, settings: list[str], tmp_path: Path
) -> None:
    nowhere = ["data.path=/nowhere.jsonl", f"output={tmp_path}"]
    with locked(tmp_path), pytest.raises(ConfigError, match=f"output={tmp_path} is being written by process"):
        train(composed("train", *settings, *nowhere))


def test_a_summary_is_json(tmp_path: Path) -> None:
    metrics = {"val/loss": torch.tensor(1.5), "val/ratio": torch.tensor(float("nan"))}
    trainer = SimpleNamespace(global_step=1, callback_metrics=metrics, checkpoint_callbacks=[])
    summary = summarise(trainer, SimpleNamespace(train_set=[], val_set=[], dropped={}), 1, 0.0)
    write_summary(tmp_path, summary)
    assert json.loads((tmp_path / "summary.json").read_text())["metrics"] == {"val/loss": 1.5, "val/ratio": None}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_summary(tmp_path, {"value": float("inf")})


@pytest.mark.parametrize("said", [True, False])
def test_a_run_goes_on_with_as_many_processes_or_not_at_all(
    said: bool, composed: Compose, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(monkeypatch, composed("train", *settings, f"output={tmp_path}"), 3)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if not said:
        # an older version did not write it; what it began goes on as it did
        for path in steps_in(tmp_path / "checkpoints"):
            state = torch.load(path, weights_only=True)
            del state[NUM_RANKS]
            torch.save(state, path)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("  devices: 1\n", "  devices: 2\n" if said else "  devices: 1\n"))
    if not said:
        train(composed("train", f"resume={tmp_path}"))
        return
    monkeypatch.setattr("lookright.commands.train._module", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(
        ConfigError, match=r"step=1.ckpt is of a run of 1 processes, and this one would have 2; give it 1"
    ):
        train(composed("train", f"resume={tmp_path}"))
    config.write_bytes(kept[config])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_folder_of_deepspeed_says_its_processes_by_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "step=3.ckpt"
    (path / "checkpoint").mkdir(parents=True)
    assert num_ranks_of(path) is None
    for rank in range(3):
        (path / "checkpoint" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    (path / "checkpoint" / "mp_rank_00_model_states.pt").touch()
    assert num_ranks_of(path) == 3
