"""Training on a cached reference is training on the reference that runs, without its passes."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from lookright.backbones.llava import LlavaBackbone
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.cached import CachedLogps
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.preference import PreferenceModule, prepare_reference
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.reference.cached_parts import counted_passes, load_data, make_pair, write_data
from tests.training.parts import make_optimization
from tests.weighted import make_loss

NUM_EPOCHS = 3


class Losses(PreferenceModule):
    """Keeps what it logs."""

    def __init__(self, pair: ModelPair) -> None:
        super().__init__(pair, make_loss(), make_optimization(1e-2), NUM_EPOCHS * 2)
        self.found: list[tuple[str, float]] = []

    def log(self, name: str, value: object, **options: object) -> None:
        self.found.append((name, float(value)))
        super().log(name, value, **options)


def fit(
    llava: LlavaBackbone,
    reference: Reference,
    path: Path,
    folder: Path,
    tuning: object,
    *,
    precision: str = "32-true",
    **data_options: object,
) -> list[tuple[str, float]]:
    """Everything that a run of a few epochs with validation logs, in order."""
    torch.manual_seed(3)
    module = Losses(make_pair(llava, reference, tuning=tuning, dtype=torch.float32))
    data = load_data(path, llava, **data_options)
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=NUM_EPOCHS,
        num_sanity_val_steps=0,
        logger=CSVLogger(folder),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    prepare_reference(module, data, trainer)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == NUM_EPOCHS * len(data.train_dataloader())
    return module.found


def lora() -> LoraTuning:
    return LoraTuning(r=4, alpha=8, dropout=0.3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_logged_number_is_that_of_the_adapter_switched_off(
    tmp_path: Path, llava: LlavaBackbone, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    path = write_data(tmp_path / "data")
    wanted = fit(llava, AdapterOff(), path, tmp_path / "off", lora(), num_workers=num_workers)
    losses = [value for name, value in wanted if name == "train/loss"]
    assert len(set(losses)) == len(losses), "the policy moves"
    cached = CachedLogps(str(tmp_path / "store"))
    found = fit(llava, cached, path, tmp_path / "first", lora(), num_workers=num_workers)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    # reference sums near -50 nats differ by float32's rounding where a batch has other neighbours
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], abs=1e-4, nan_ok=True)
    with counted_passes(monkeypatch) as passes:
        again = fit(
            llava, CachedLogps(str(tmp_path / "store")), path, tmp_path / "second", lora(), num_workers=num_workers
        )
    assert len(passes) == 1, "the comparison at the start is the only reference pass of all epochs"
    # text, since NaN is not equal to itself
    assert [str(pair) for pair in again] == [str(pair) for pair in found]


def test_in_bfloat16_every_number_is_the_same_to_the_last_bit(tmp_path: Path, llava: LlavaBackbone) -> None:
    """Where a batch is the same row, what the cache holds is what the reference would give again."""
    path = write_data(tmp_path / "data")
    options = {"precision": "bf16-mixed", "batch_size": 1}
    wanted = fit(llava, AdapterOff(), path, tmp_path / "off", lora(), **options)
    found = fit(llava, CachedLogps(str(tmp_path / "store")), path, tmp_path / "cached", lora(), **options)
    assert [str(pair) for pair in found] == [str(pair) for pair in wanted]


def test_every_logged_number_is_that_of_a_frozen_copy_in_full_tuning(tmp_path: Path, llava: LlavaBackbone) -> None:
    path = write_data(tmp_path / "data")
    wanted = fit(llava, FrozenCopy(), path, tmp_path / "copy", FullTuning())
    found = fit(llava, CachedLogps(str(tmp_path / "store")), path, tmp_path / "cached", FullTuning())
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], abs=1e-4, nan_ok=True)
