"""Pictures that break after they were checked: the run ends with the record's name, or goes on without the record."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands import train as run
from lookright.errors import LookRightError, RecordError
from lookright.packing.batch import PackedBatch, empty_batch, pack
from lookright.reference.base import Preparation
from lookright.reference.cached import CachedLogps
from lookright.training.datamodule import PreferenceData
from lookright.training.preference import PreferenceModule
from tests.training.parts import make_module, snapshot
from tests.training.test_fit import fit


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width + 1, image.height)).save(path)


class Watch(lightning.Callback):
    """Ids of every batch, and what the batches without any did."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.moved: list[bool] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: PreferenceModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        self.batches.append(batch.ids)
        self.before = snapshot(pl_module), self._state(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: PreferenceModule, outputs: object, batch: PackedBatch, idx: int
    ) -> None:
        weights, state = self.before
        same = all(torch.equal(value, weights[name]) for name, value in snapshot(pl_module).items())
        if not batch.ids:
            assert float(outputs["loss"]) == 0
        self.moved.append(not same or self._state(trainer) != state)

    def _state(self, trainer: lightning.Trainer) -> str:
        return str([float(part["step"]) for part in trainer.optimizers[0].state.values()]) + str(
            [part["exp_avg"].sum().item() for part in trainer.optimizers[0].state.values()]
        )


def prepared(pairs: Callable[..., Path], folder: Path, backbone: LlavaBackbone, **options: object) -> PreferenceData:
    """Seven pairs, each with its own pictures."""
    data = PreferenceData(str(pairs(folder, 7)), **{"val_fraction": 0.0, "on_bad_record": "skip", **options})
    data.prepare(backbone, needs_target=True)
    return data


@pytest.mark.parametrize(
    ("damage", "batch_size", "num_workers"),
    [(remove, 1, 0), (remove, 1, 2), (remove, 3, 0), (remove, 3, 2), (cut, 3, 0), (resize, 3, 2)],
)
def test_the_rest_of_the_batch_trains_and_the_record_is_counted_once(
    llava: LlavaBackbone,
    pairs: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    batch_size: int,
    num_workers: int,
) -> None:
    data = prepared(pairs, tmp_path, llava, batch_size=batch_size, num_workers=num_workers)
    damage(tmp_path / "images" / "pair4_1.png")
    watch = Watch()
    module = make_module(llava, dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        trainer = fit(module, data, max_steps=-1, max_epochs=2, callbacks=[watch])
    per_epoch = -(-7 // batch_size)
    assert trainer.global_step == len(watch.batches) == 2 * per_epoch
    epoch = [name for batch in watch.batches[:per_epoch] for name in batch]
    assert sorted(epoch) == ["pair0", "pair1", "pair2", "pair3", "pair5", "pair6"]
    assert dict(data.dropped) == {"picture": 1}
    # every batch with pairs moves the weights, one without moves neither them nor the optimiser's state
    assert watch.moved == [len(batch) > 0 for batch in watch.batches]
    assert watch.moved.count(False) == (2 if batch_size == 1 else 0)
    told = [record.message for record in caplog.records if record.message.startswith("left out")]
    assert len(told) == 1 and "record pair4" in told[0] and "pair4_1.png" in told[0]


@pytest.mark.parametrize(("damage", "num_workers"), [(remove, 0), (remove, 2), (cut, 2), (resize, 0)])
def test_an_error_names_record_file_and_how_to_go_on(
    llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None], num_workers: int
) -> None:
    data = prepared(pairs, tmp_path, llava, on_bad_record="error", batch_size=3, num_workers=num_workers)
    damage(tmp_path / "images" / "pair4_1.png")
    pattern = r"record pair4: .*pair4_1\.png.*\[picture\].*resume=/here.*data\.on_bad_record=skip"
    with pytest.raises(LookRightError, match=pattern):
        fit(make_module(llava, dtype=torch.float32), data, max_steps=3, default_root_dir="/here")
    with pytest.raises(RecordError, match="record pair4: "):
        data.train_set[4]


def test_a_batch_is_that_of_the_others(llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path) -> None:
    data = prepared(pairs, tmp_path, llava, batch_size=7)
    (tmp_path / "images" / "pair2_0.png").unlink()
    (batch,) = data.train_dataloader()
    order = [index for index in next(iter(data.train_sampler)) if index != 2]
    wanted = pack([data.train_set[index] for index in order])
    assert batch.ids == wanted.ids and torch.equal(batch.input_ids, wanted.input_ids)
    assert torch.equal(batch.coverage, wanted.coverage) and torch.equal(batch.scored.rows, wanted.scored.rows)


def test_a_loss_of_nothing_reaches_all_that_trains(llava: LlavaBackbone) -> None:
    """So that every rank of a distributed run has gradients to average."""
    module = make_module(llava)
    logged: list[str] = []
    module.log = lambda name, *_, **__: logged.append(name)
    loss = module.training_step(empty_batch(), 0)
    assert loss.ndim == 0 and float(loss) == 0
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for gradient in torch.autograd.grad(loss, trained):
        assert not gradient.any()
    assert not logged and len(trained) == 84


def test_accumulated_steps_count_the_pairs_of_all_their_batches(
    llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path
) -> None:
    """A step whose second batch is empty is a step; one of empty batches alone is none."""
    for broken, moves in ((1, True), (2, False)):
        data = PreferenceData(str(pairs(tmp_path / str(broken), 2)), val_fraction=0.0, on_bad_record="skip")
        data.prepare(llava, needs_target=True)
        for number in range(broken):
            next((tmp_path / str(broken) / "images").glob(f"pair{1 - number}_*.png")).unlink()
        module = make_module(llava, dtype=torch.float32)
        before = snapshot(module)
        fit(module, data, max_steps=1, accumulate_grad_batches=2)
        assert any(not torch.equal(value, before[name]) for name, value in snapshot(module).items()) == moves


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_takes_the_rest(
    llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path, num_workers: int
) -> None:
    val_path = pairs(tmp_path / "v", 3, "val")
    data = prepared(pairs, tmp_path / "a", llava, val_path=str(val_path), num_workers=num_workers)
    whole = dict(zip(("val0", "val1", "val2"), data.val_set, strict=True))
    (tmp_path / "v" / "images" / "val1_0.png").unlink()
    module = make_module(llava, dtype=torch.float32)
    trainer = fit(module, data, limit_val_batches=1.0, val_check_interval=1)
    module.eval()
    with torch.no_grad():
        losses = [module.score_batch(pack([whole[name]]), read_attention=True)[0] for name in ("val0", "val2")]
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(sum(losses)) / 2, abs=1e-5)
    assert dict(data.dropped) == {"picture": 1}


def scoring(data: PreferenceData) -> Preparation:
    return Preparation(loaders=lambda: data.scoring_dataloaders(0, 1), device=torch.device("cpu"), show_progress=False)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_cached_reference_scores_the_rest(
    llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path, batch_size: int
) -> None:
    module = make_module(llava, reference=CachedLogps(str(tmp_path / "store")), dtype=torch.float32)
    data = prepared(pairs, tmp_path, llava, batch_size=batch_size)
    (tmp_path / "images" / "pair0_0.png").unlink()
    module.pair.reference.prepare(module.pair, scoring(data))
    rest = data.train_set.records[1:]
    assert len(module.pair.reference.store) == sum(1 + len(record.rejected) for record in rest)
    watch = Watch()
    fit(module, data, max_steps=-1, max_epochs=1, callbacks=[watch])
    assert sorted(name for batch in watch.batches for name in batch) == [record.id for record in rest]
    assert dict(data.dropped) == {"picture": 1}


def test_a_cached_reference_names_it(llava: LlavaBackbone, pairs: Callable[..., Path], tmp_path: Path) -> None:
    module = make_module(llava, reference=CachedLogps(str(tmp_path / "store")), dtype=torch.float32)
    data = prepared(pairs, tmp_path, llava, on_bad_record="error")
    (tmp_path / "images" / "pair3_0.png").unlink()
    with pytest.raises(LookRightError, match=r"record pair3: cannot read the picture .*pair3_0\.png"):
        module.pair.reference.prepare(module.pair, scoring(data))


def test_the_summary_of_a_run_counts_it(
    pairs: Callable[..., Path],
    small_run: list[str],
    composed: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pairs(tmp_path / "data")

    def vanish(*_: object) -> None:
        (tmp_path / "data" / "images" / "pair1_0.png").unlink()

    monkeypatch.setattr("lookright.commands.train.prepare_reference", vanish)
    overrides = [*small_run, f"data.path={path}", "data.on_bad_record=skip", "data.val_fraction=0"]
    run.train(composed("train", *overrides, "reference=adapter_off", f"output={tmp_path / 'run'}"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dropped"] == {"picture": 1} and summary["steps"] == summary["planned_steps"] == 7


TWO_RANKS = """
import sys
from pathlib import Path
import torch
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.training.preference import PreferenceModule
from lookright.commands.train import train
from hydra import compose, initialize_config_dir

def vanish(self):
    torch.distributed.barrier()
    Path(sys.argv[1]).unlink(missing_ok=True)
    torch.distributed.barrier()

PreferenceModule.on_train_start = vanish
register()
with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
    config = compose("train", overrides=sys.argv[2:])
train(config)
"""


def test_two_ranks_keep_step(pairs: Callable[..., Path], small_run: list[str], tmp_path: Path) -> None:
    """Batches of one pair: the rank that is dealt the broken one has nothing to do in that step."""
    path = pairs(tmp_path / "data", 4)
    (tmp_path / "run.py").write_text(TWO_RANKS)
    options = ["data.on_bad_record=skip", "data.val_fraction=0", "data.batch_size=1", f"output={tmp_path / 'run'}"]
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2"]
    overrides = [*small_run, f"data.path={path}", *options, *ranks]
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "data" / "images" / "pair1_0.png"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dropped"] == {"picture": 1} and summary["steps"] == summary["planned_steps"] == 4
