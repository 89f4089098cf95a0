"""A run that was killed goes on to exactly the weights and metrics of one that was not."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.commands.train import train
from lookright.errors import ConfigError
from lookright.launching.jobs import GO_ON
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
    train(composed("train", f"resume={tmp_path}"))
    assert_same_run(tmp_path, unbroken)


def test_resume_takes_no_other_override(composed: Compose, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"resume={unbroken}", "seed=1"]
    monkeypatch.setattr("lookright.commands.run_folder.given_overrides", lambda: given)
    with pytest.raises(ConfigError, match=r"resume takes the config of .*; remove seed=1"):
        train(composed("train", *given))


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
