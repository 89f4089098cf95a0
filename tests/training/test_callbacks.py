"""Callbacks that a config adds, and the names of what they may monitor."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.training.callbacks import EarlyStopping, OperatorProfile, StepSeed, best_checkpoints, monitors
from lookright.training.preference import logged_metrics
from tests.training.parts import make_module
from tests.training.test_fit import fit, make_data
from tests.weighted import make_loss


@pytest.mark.parametrize(
    "weights",
    [{"alpha": 1.0, "gamma": 0.5}, {"alpha": 0.0, "gamma": 1.0, "attention": 0.0}, {"alpha": 1.0, "attention": 0.0}],
)
def test_the_names_are_those_of_a_run(weights: dict[str, float], llava: LlavaBackbone, tmp_path: Path) -> None:
    loss = make_loss(**weights)
    module = make_module(llava, loss, dtype=torch.float32)
    data = make_data(tmp_path, llava, val_fraction=0.6)
    trainer = fit(module, data, limit_val_batches=1.0, val_check_interval=1)
    found = sorted({*trainer.callback_metrics, "train/learning_rate"})
    assert logged_metrics(loss, data.val_set.records) == found
    assert any(name.startswith("val/sequence/") for name in found)


def test_random_numbers_of_a_step_follow_its_place_and_the_seed_alone() -> None:
    def drawn(seed: int = 0, rank: int = 0, epoch: int = 0, batch: int = 0) -> float:
        trainer = SimpleNamespace(global_rank=rank, current_epoch=epoch)
        StepSeed(seed).on_train_batch_start(trainer, None, None, batch)
        return torch.rand(()).item()

    with torch.random.fork_rng():
        others = [drawn(), drawn(seed=1), drawn(rank=1), drawn(epoch=1), drawn(batch=1), drawn(epoch=1, batch=1)]
        assert drawn() == others[0] and len(set(others)) == len(others)


def test_without_held_out_pairs_nothing_of_them_is_named(llava: LlavaBackbone) -> None:
    assert [name for name in logged_metrics(make_loss(), []) if not name.startswith("train/")] == []


def test_who_monitors_and_who_keeps() -> None:
    best = ModelCheckpoint(monitor="val/loss")
    given = {"best": best, "stop": EarlyStopping(monitor="train/loss"), "last": ModelCheckpoint()}
    given["none"] = ModelCheckpoint(monitor="val/loss", save_top_k=0)
    assert monitors(given) == {"best": "val/loss", "stop": "train/loss", "none": "val/loss"}
    assert best_checkpoints(given) == {"best": best}


@pytest.mark.parametrize("state", [{"wait_count": 3, "stopped_epoch": 0}, {"wait_count": 0, "stopped_epoch": 2}])
def test_a_run_that_was_stopped_stays_so(state: dict[str, int]) -> None:
    trainer = lightning.Trainer(logger=False, barebones=True)
    stop = EarlyStopping(monitor="val/loss", patience=3)
    assert isinstance(stop, LightningEarlyStopping)
    stop.on_train_start(trainer, lightning.LightningModule())
    assert not trainer.should_stop
    stop.load_state_dict({**stop.state_dict(), **state})
    stop.on_train_start(trainer, lightning.LightningModule())
    assert trainer.should_stop


def test_a_profile_of_the_steps_asked_for(llava: LlavaBackbone, tmp_path: Path) -> None:
    """Two of four batches, after one: each has one pass backward to the embedding of every picture's adapters."""
    loss = make_loss(alpha=0.0, gamma=1.0, attention=0.0)
    module = make_module(llava, loss, dtype=torch.float32)
    profiler = OperatorProfile(skip=1, num_batches=2, profile_memory=False)
    data = make_data(tmp_path, llava, batch_size=2)
    fit(module, data, max_steps=4, callbacks=[profiler], default_root_dir=tmp_path)
    table = (tmp_path / "profile" / "operators.txt").read_text()
    assert "aten::mm" in table and "Self CPU" in table
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    steps = [event for event in events if str(event.get("name")).startswith("Optimizer.step#AdamW.step")]
    assert len(steps) == 2


def test_a_run_shorter_than_the_profile_writes_what_it_has(llava: LlavaBackbone, tmp_path: Path) -> None:
    module = make_module(llava, make_loss(alpha=0.0, gamma=1.0, attention=0.0), dtype=torch.float32)
    profiler = OperatorProfile(skip=0, num_batches=50, profile_memory=False)
    fit(module, make_data(tmp_path, llava), callbacks=[profiler], default_root_dir=tmp_path)
    assert (tmp_path / "profile" / "operators.txt").is_file()


def test_a_profile_of_a_run_that_is_too_short_is_missed(llava: LlavaBackbone, tmp_path: Path) -> None:
    module = make_module(llava, make_loss(alpha=0.0, gamma=1.0, attention=0.0), dtype=torch.float32)
    with pytest.warns(UserWarning, match=r"callbacks.profiler.skip=1: the run had 1 batches"):
        fit(module, make_data(tmp_path, llava), callbacks=[OperatorProfile(skip=1)], default_root_dir=tmp_path)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("options", "words"), [({"skip": -1}, "skip=-1"), ({"num_batches": 0}, "num_batches=0")])
def test_a_profile_of_nothing_is_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OperatorProfile(**options)
