"""The module under Lightning's own loop: modes, accumulation, checkpoints."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import PackedBatch
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.datamodule import PreferenceData
from lookright.training.optimization import count_steps
from lookright.training.preference import PreferenceModule
from lookright.training.trainer import TrainerSettings
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close
from tests.examples import shake_adapters, write_pairs
from tests.training.parts import make_batch, make_module, moved, snapshot, take_steps
from tests.weighted import make_loss


def make_data(folder: Path, backbone: LlavaBackbone, **options: object) -> PreferenceData:
    formats = ("sequence", "grid_collage")
    data = PreferenceData(str(write_pairs(folder, 8, formats=formats)), **{"val_fraction": 0.0, **options})
    data.prepare(backbone, needs_target=True)
    return data


def fit(module: PreferenceModule, data: PreferenceData, **options: object) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False, "limit_val_batches": 0, "max_steps": 1, **options},
    )
    trainer.fit(module, datamodule=data)
    return trainer


def test_one_batch_of_eight_equals_eight_accumulated(llava: LlavaBackbone, tmp_path: Path) -> None:
    """After one optimiser step all adapters are the same; no dropout, which would draw differently."""

    def trained(batch_size: int, accumulate: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        loss = make_loss(gamma=0.5, attention=0.0)
        module = make_module(llava, loss, tuning=LoraTuning(r=2, alpha=4, dropout=0.0))
        shake_adapters(module.pair.policy)
        before = snapshot(module)
        fit(module, make_data(tmp_path, llava, batch_size=batch_size), accumulate_grad_batches=accumulate)
        assert len(moved(module, before)) == 84
        return module.state_dict()

    once, accumulated = trained(8, 1), trained(1, 8)
    for name, value in once.items():
        assert_close(accumulated[name], value, atol=2e-6, why="float32 norms; AdamW divides by the gradient", name=name)


def test_every_epoch_has_its_own_order_and_all_pairs(llava: LlavaBackbone, tmp_path: Path) -> None:
    module = make_module(llava, make_loss(alpha=0.0, gamma=1.0, attention=0.0), dtype=torch.float32)
    seen: list[str] = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer: object, module: object, batch: PackedBatch, batch_idx: int) -> None:
            seen.extend(batch.ids)

    trainer = fit(module, make_data(tmp_path, llava, batch_size=3), max_steps=-1, max_epochs=2, callbacks=[Watch()])
    assert trainer.global_step == count_steps(3, 1, 2, -1) == 6
    assert sorted(seen[:8]) == sorted(seen[8:]) == [f"pair-{number}" for number in range(8)] and seen[:8] != seen[8:]


def test_training_starts_in_training_mode(llava: LlavaBackbone, tmp_path: Path) -> None:
    """Lightning keeps the modes that it finds, and weights from a folder arrive in evaluation mode:
    adapter dropout and gradient checkpointing must be on all the same, and again after validation."""
    module = make_module(llava, dtype=torch.float32)
    module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
    module.eval()
    layers = [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]
    dropouts = [part for name, part in module.named_modules() if name.endswith("lora_dropout.default")]
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            seen.append([all(part.training for part in parts) for parts in (layers, dropouts)])

        def on_validation_batch_start(self, *_: object) -> None:
            seen.append([any(part.training for part in parts) for parts in (layers, dropouts)])

    data = make_data(tmp_path, llava, batch_size=2, val_fraction=0.3)
    fit(module, data, max_steps=2, val_check_interval=1, limit_val_batches=1, callbacks=[Watch()])
    assert seen == [[True, True], [False, False], [True, True], [False, False]]


def test_validation_reports_every_format(llava: LlavaBackbone, tmp_path: Path) -> None:
    module = make_module(llava, dtype=torch.float32)
    data = make_data(tmp_path, llava, val_fraction=0.6)
    trainer = fit(module, data, limit_val_batches=1.0, val_check_interval=1)
    labels = {record.format for record in data.val_set.records}
    names = {"loss", "loss_dpo", "loss_sft", "loss_attention", "reward_margin", "reward_accuracy", "attention_ratio"}
    for name in names:
        whole = trainer.callback_metrics[f"val/{name}"]
        parts = [float(trainer.callback_metrics[f"val/{record.format}/{name}"]) for record in data.val_set.records]
        mean = sum(parts) / len(parts)
        assert len(labels) == 2 and float(whole) == pytest.approx(mean, abs=1e-4), name


@pytest.mark.parametrize("tuning", [LoraTuning(r=2, alpha=4), FullTuning()], ids=["lora", "full"])
def test_a_checkpoint_holds_what_trains_as_plain_tensors(
    llava: LlavaBackbone, tmp_path: Path, tuning: LoraTuning | FullTuning
) -> None:
    module = make_module(llava, tuning=tuning, reference=FrozenCopy(), dtype=torch.float32)
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", save_last=True, every_n_train_steps=1)
    fit(module, make_data(tmp_path, llava), enable_checkpointing=True, callbacks=[saver])
    loaded = torch.load(tmp_path / "saved" / "last.ckpt", weights_only=True)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert set(loaded["state_dict"]) == trained and len(trained) == (84 if isinstance(tuning, LoraTuning) else 57)
    other = make_module(llava, tuning=tuning, reference=FrozenCopy(), dtype=torch.float32)
    assert moved(other, snapshot(module))
    other.load_state_dict(loaded["state_dict"], strict=other.strict_loading)
    assert not moved(other, snapshot(module))


def test_state_dict_leaves_out_the_frozen_model(llava: LlavaBackbone) -> None:
    module = make_module(llava)
    take_steps(module, make_batch(llava))
    names = set(module.state_dict())
    assert len(names) == 84 and all(".lora_A." in name or ".lora_B." in name for name in names)


@pytest.mark.parametrize(
    "options",
    [{"max_steps": 0}, {"max_steps": -2}, {"max_epochs": None}, {"accumulate_grad_batches": 0}, {"model_dtype": "f4"}],
)
def test_trainer_settings_that_train_nothing_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=f"trainer.{next(iter(options))}"):
        TrainerSettings(**options)
