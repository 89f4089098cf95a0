"""`train.py` with callbacks, arguments of Lightning's `Trainer`, debug presets, optimiser and schedule of torch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from lookright.commands.train import train
from lookright.config.entry import explain
from lookright.errors import ConfigError
from lookright.losses.sft import SFTLoss
from lookright.reports.training import read_columns
from lookright.training.checkpoints import newest_whole
from lookright.training.preference import PreferenceModule
from tests.commands.test_train import forbid_weights
from tests.commands.test_train_resume import assert_same_run, run_until

Compose = Callable[..., DictConfig]


@pytest.fixture()
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Ids of every batch that trains."""
    step, seen = PreferenceModule.training_step, []

    def noting(self: PreferenceModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append(batch.ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PreferenceModule, "training_step", noting)
    return seen


def points(folder: Path, name: str) -> list[float]:
    return [value for _, value in read_columns(folder / "metrics.csv")[name]]


# a rate at which the held-out loss falls first and rises later
STOPPING = [
    "callbacks=[best_checkpoint,early_stopping]",
    "callbacks.early_stopping.patience=2",
    "trainer.max_epochs=12",
    "optimizer.lr=0.03",
    "loss.attention.weight=0",
]


@pytest.fixture(scope="module")
def stopped(composed: Compose, small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    train(composed("train", *small_run, *STOPPING, "save=best", f"output={folder}"))
    return folder


def test_best_weights_are_kept_and_the_run_ends_early(stopped: Path) -> None:
    losses = points(stopped, "val/loss")
    summary = json.loads((stopped / "summary.json").read_text())
    best = summary["best"]["best_checkpoint"]
    assert (best["metric"], best["checkpoint"]) == ("val/loss", "checkpoints/best.ckpt")
    assert best["value"] == pytest.approx(min(losses), rel=1e-6)
    place = losses.index(min(losses))
    # two epochs without an improvement end it
    assert len(losses) == place + 3 < 12 and summary["steps"] == 6 * len(losses) < summary["planned_steps"] == 72

    kept = torch.load(stopped / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["global_step"] == 6 * (place + 1) and "optimizer_states" not in kept
    last = torch.load(newest_whole(stopped), weights_only=True)["state_dict"]
    saved = load_file(stopped / "adapter" / "adapter_model.safetensors")
    names = {name: f"pair.policy.{name.replace('.weight', '.default.weight')}" for name in saved}
    assert {*names.values()} == kept["state_dict"].keys()
    assert all(torch.equal(saved[name], kept["state_dict"][other]) for name, other in names.items())
    assert not all(torch.equal(saved[name], last[other]) for name, other in names.items())
    assert summary["saved"] == "best"


def test_a_run_that_ended_early_stays_ended(composed: Compose, stopped: Path, tmp_path: Path) -> None:
    """Also where it was killed before its adapter was written."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    before = (folder / "summary.json").read_bytes()
    train(composed("train", f"resume={folder}"))
    assert json.loads((folder / "summary.json").read_bytes()) == json.loads(before)
    assert_same_run(folder, stopped)


@pytest.mark.parametrize("num_batches", [8, 17])
def test_a_resumed_run_remembers_what_was_best(
    num_batches: int,
    composed: Compose,
    small_run: list[str],
    stopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_until(monkeypatch, composed("train", *small_run, *STOPPING, "save=best", f"output={tmp_path}"), num_batches)
    train(composed("train", f"resume={tmp_path}"))
    assert_same_run(tmp_path, stopped)
    names = ("best", "saved", "steps", "metrics")
    found, expected = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path, stopped))
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_the_last_weights_are_saved_unless_asked(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    watching = ["callbacks=best_checkpoint", "callbacks.best_checkpoint.monitor=val/reward_margin"]
    watching += ["callbacks.best_checkpoint.mode=max", "trainer.max_epochs=2"]
    summary = train(composed("train", *small_run, *watching, f"output={tmp_path}"))
    assert summary["saved"] == "last"
    assert summary["best"]["best_checkpoint"]["value"] == pytest.approx(max(points(tmp_path, "val/reward_margin")))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    last = torch.load(newest_whole(tmp_path), weights_only=True)["state_dict"]
    assert all(
        torch.equal(value, last[f"pair.policy.{name.replace('.weight', '.default.weight')}"])
        for name, value in saved.items()
    )


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (
            ["callbacks=best_checkpoint", "callbacks.best_checkpoint.monitor=val/acuracy"],
            ["callbacks.best_checkpoint.monitor='val/acuracy' is not measured; ", "val/grid_collage/reward_accuracy"],
        ),
        (
            ["callbacks=early_stopping", "data.val_fraction=0"],
            ["callbacks.early_stopping.monitor='val/loss' is not measured; no pair is held out: set data.val_fraction"],
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=train/loss_dpo", "loss.alpha=0"],
            ["callbacks.early_stopping.monitor='train/loss_dpo' is not measured; did you mean train/loss"],
        ),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=least"], ["callbacks.early_stopping: ", "least"]),
        (
            ["+callbacks.mine={_target_: pathlib.Path}"],
            ["_target_=pathlib.Path is no lightning.Callback"],
        ),
        (["callbacks=profiler", "callbacks.profiler.skip=-2"], ["callbacks.profiler.skip=-2; set 0 or more"]),
        (["save=best"], ["save=best needs one callback that keeps the best; set callbacks=[best_checkpoint]"]),
        (["save=first"], ["save='first'; valid: last, best"]),
        (["optimizer.lr=0", "schedule=cosine", "schedule.warmup=2"], ["schedule.warmup=2"]),
        (["optimizer.lr=0"], ["optimizer.lr=0; set a number above 0"]),
        (["optimizer.betas=[0.9,1.5]"], ["optimizer, schedule: Invalid beta"]),
        (["~optimizer._partial_"], ["optimizer: ", "without _partial_: true"]),
        (["+trainer.logger=csv"], ["trainer.logger is set by other means; set logger=csv"]),
        (["+trainer.fast_dev_run=true"], ["trainer.fast_dev_run is set by other means; set debug=steps"]),
        (["+trainer.limit_trian_batches=2"], ["limit_trian_batches does not exist; did you mean limit_train_batches?"]),
        (["trainer.limit_train_batches=0"], ["trainer.limit_train_batches=0 leaves no batch"]),
        (["trainer.profiler=stopwatch"], ["trainer: ", "one of ['simple', 'advanced'"]),
        (["+optimization.warmup=0"], ["optimization.warmup is schedule.warmup now"]),
        (["+sede=1"], ["sede does not exist; did you mean seed?"]),
    ],
)
def test_what_cannot_run_is_refused_before_weights_load(
    overrides: list[str],
    wanted: list[str],
    composed: Compose,
    small_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid_weights(monkeypatch)
    with pytest.raises(ConfigError) as error:
        train(composed("train", *small_run, *overrides, f"output={tmp_path / 'run'}"))
    for text in wanted:
        assert text in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_profile_lies_in_the_runs_folder(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    given = ["callbacks=profiler", "callbacks.profiler.skip=0", "callbacks.profiler.num_batches=1"]
    train(composed("train", *small_run, *given, "trainer.max_steps=1", f"output={tmp_path}"))
    assert "aten::" in (tmp_path / "profile" / "operators.txt").read_text()


def test_arguments_of_lightnings_trainer(
    composed: Compose, small_run: list[str], tmp_path: Path, batches: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    limits = ["trainer.limit_train_batches=0.5", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"]
    profile = ["trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, filename: times}"]
    profile[0] = profile[0][:-1] + f", dirpath: {tmp_path}}}"
    summary = train(composed("train", *small_run, *limits, *profile, f"output={tmp_path / 'run'}"))
    assert len(batches) == 6 == summary["steps"] == summary["planned_steps"]
    assert len(points(tmp_path / "run", "val/loss")) == 1
    assert "run_training_batch" in (tmp_path / "fit-times.txt").read_text()
    # the schedule counts what is left of an epoch: one step climbs, five go down
    rates = points(tmp_path / "run", "train/learning_rate")
    assert rates == pytest.approx([0.01 * share for share in (1, 1, 0.8, 0.6, 0.4, 0.2)])


def test_overfit_is_one_batch_that_is_learnt(
    composed: Compose, small_run: list[str], tmp_path: Path, batches: list[list[str]]
) -> None:
    own = [item for item in small_run if not item.startswith(("backbone", "tuning", "optimizer", "data.val_fraction"))]
    # the shipped backbone: random weights have a random head, which adapters do not train
    given = ["debug=overfit", "backbone=tiny_llava", "tuning.r=16", "tuning.alpha=32"]
    given += ["loss.gamma=1", "loss.kind.beta=1"]
    summary = train(composed("train", *own, *given, "optimizer.lr=3e-3", "trainer.max_steps=60", f"output={tmp_path}"))
    assert len(batches) == 60 and set(map(tuple, batches)) == {("pair0", "pair1")}
    losses = points(tmp_path, "train/loss")
    assert losses[0] > 1 and losses[-1] < 0.02 * losses[0]
    assert (summary["steps"], summary["held_out"]) == (60, 0)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step=60.ckpt"]


def test_two_steps_of_everything(
    composed: Compose, small_run: list[str], tmp_path: Path, batches: list[list[str]]
) -> None:
    given = ["debug=steps", "callbacks=best_checkpoint"]
    summary = train(composed("train", *small_run, *given, f"output={tmp_path}"))
    assert len(batches) == summary["steps"] == summary["planned_steps"] == 2
    assert {"train/loss", "val/loss"} <= set(summary["metrics"])
    for name in ("checkpoints/step=2.ckpt", "checkpoints/best.ckpt", "adapter/adapter_config.json", "report.html"):
        assert (tmp_path / name).is_file()


def test_two_steps_where_an_epoch_has_one(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    own = [item for item in small_run if not item.startswith("data.batch_size")]
    summary = train(composed("train", *own, "debug=steps", "data.batch_size=12", f"output={tmp_path}"))
    assert summary["steps"] == 2 and len(points(tmp_path, "val/loss")) == 2


def test_an_anomaly_is_named(
    composed: Compose, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square root of 0 has an infinite gradient, and 0 times that is NaN."""
    monkeypatch.setattr(SFTLoss, "__call__", lambda self, scores: (scores.policy_chosen.logps * 0).sqrt())
    # as Lightning leaves it
    monkeypatch.setattr(torch, "is_anomaly_enabled", torch.is_anomaly_enabled)
    try:
        with pytest.raises(RuntimeError, match="SqrtBackward0|MulBackward0.* returned nan"):
            train(composed("train", *small_run, "debug=anomaly", "loss.gamma=1", f"output={tmp_path}"))
    finally:
        torch.autograd.set_detect_anomaly(False)


def test_another_optimiser_and_scheduler(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    """Without a file: SGD that halves its rate every two steps."""
    own = [item for item in small_run if not item.startswith("optimizer")]
    config = composed("train", *own, "trainer.max_steps=5", "trainer.max_epochs=null", f"output={tmp_path}")
    config.optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.4, "momentum": 0.9}
    config.schedule = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 2, "gamma": 0.5}
    train(config)
    assert points(tmp_path, "train/learning_rate") == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    state = torch.load(newest_whole(tmp_path), weights_only=True)["optimizer_states"][0]
    assert "momentum_buffer" in state["state"][0]


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("optimization.learning_rate=1", "optimization.learning_rate is optimizer.lr now"),
        ("optimization.schedule=cosine", "optimization.schedule is the group schedule (schedule=cosine) now"),
        ("optimization.lr=1", "optimization.lr does not exist; optimization.learning_rate is optimizer.lr now, "),
    ],
)
def test_an_old_key_is_told_its_new_name(
    override: str, wanted: str, composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", override])
    with pytest.raises(Exception, match="override") as error:
        composed("train", override)
    assert explain(error.value, "train").startswith(wanted)


def test_a_run_of_an_older_version_does_not_go_on(
    composed: Compose, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_weights(monkeypatch)
    shutil.copytree(stopped, tmp_path / "run")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    old = {name: value for name, value in config.items() if name not in ("optimizer", "schedule", "projector_lr")}
    OmegaConf.save(OmegaConf.create(old | {"optimization": {"learning_rate": 1e-4}}), tmp_path / "run" / "config.yaml")
    with pytest.raises(ConfigError) as error:
        train(composed("train", f"resume={tmp_path / 'run'}"))
    told = str(error.value)
    assert "was saved by another version of this program (optimization, optimizer, projector_lr, schedule)" in told
    assert "optimization.learning_rate is optimizer.lr now" in told
