"""A small data set on disk and pairs with a cached reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lookright.reference.cached
from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import PackedBatch
from lookright.records.records import write_jsonl
from lookright.reference.base import ModelPair, Preparation, Reference
from lookright.reference.cached import CachedLogps
from lookright.training.datamodule import PreferenceData
from lookright.tuning.lora import LoraTuning
from lookright.types import Preference
from tests.examples import SIZES, lively_model, noise

NUM_RESPONSES = 15
"""Of `records`: six pairs, every second one with two rejected."""


def records() -> list[Preference]:
    """Six pairs of two formats with one to three pictures, and two rejected in every second."""
    found = []
    for number in range(6):
        count = 1 + number % 3
        shown = "\n".join(f"Image{place + 1}:<image>" for place in range(count))
        found.append(
            Preference(
                id=f"r{number}",
                images=[f"{number}_{place}.png" for place in range(count)],
                prompt=f"{shown}\nIn Image{1 + number % count}, what color is the shape?",
                chosen=f"red {number} circle",
                rejected=["blue", f"no, Image{number}: triangle"][: 1 + number % 2],
                format="sequence" if number < 4 else "grid_collage",
            )
        )
    return found


def write_data(folder: Path, changed: Callable[[list[Preference]], Any] = list) -> Path:
    """Pictures and `records`, after `changed`, as a file to read."""
    rows = records()
    for row in rows:
        for place, name in enumerate(row.images):
            folder.mkdir(parents=True, exist_ok=True)
            noise(SIZES[place], 10 * int(row.id[1:]) + place).save(folder / name)
    write_jsonl(folder / "preferences.jsonl", changed(rows))
    return folder / "preferences.jsonl"


def load_data(path: Path, backbone: LlavaBackbone, **options: Any) -> PreferenceData:
    """About a third held out, batches of two."""
    data = PreferenceData(str(path), **({"val_fraction": 0.3, "batch_size": 2} | options))
    data.prepare(backbone, needs_target=False)
    return data


def make_pair(
    backbone: LlavaBackbone,
    reference: Reference,
    *,
    tuning: Any = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> ModelPair:
    """LoRA with dropout unless told."""
    tuning = LoraTuning(r=4, alpha=8, dropout=0.5) if tuning is None else tuning
    return ModelPair(backbone, tuning.apply(backbone, lively_model(backbone, dtype, seed)), reference)


def preparation(data: PreferenceData, rank: int = 0, num_ranks: int = 1, **options: Any) -> Preparation:
    """On the CPU, without a bar."""
    return Preparation(
        loaders=lambda: data.scoring_dataloaders(rank, num_ranks),
        device=torch.device("cpu"),
        num_ranks=num_ranks,
        show_progress=False,
        **options,
    )


def prepared(
    backbone: LlavaBackbone, data: PreferenceData, folder: Path, *, keep_adapter: bool = True, **options: Any
) -> ModelPair:
    """A pair whose cached reference is ready, in training mode."""
    given = {name: options.pop(name) for name in ("precision", "context") if name in options}
    pair = make_pair(backbone, CachedLogps(str(folder), keep_adapter), **options)
    pair.reference.prepare(pair, preparation(data, **given))
    return pair.train()


def reference_of(pair: ModelPair, batch: PackedBatch) -> Tensor:
    """float[R]"""
    with torch.no_grad():
        return pair.reference_logps(batch, pair.image_features(batch))


def all_batches(data: PreferenceData) -> list[PackedBatch]:
    """Training in its shuffled order, then held out."""
    return [*data.train_dataloader(), *data.val_dataloader()]


@contextmanager
def counted_passes(monkeypatch: pytest.MonkeyPatch, fail_after: int | None = None) -> Iterator[list[list[str]]]:
    """Ids of the records in every pass that a cached reference runs; the pass after `fail_after` is a kill."""
    passes: list[list[str]] = []
    real = lookright.reference.cached.packed_forward

    def spy(backbone: Any, model: Any, batch: PackedBatch, features: Any) -> Any:
        if len(passes) == fail_after:
            raise KeyboardInterrupt
        passes.append(batch.ids)
        return real(backbone, model, batch, features)

    with monkeypatch.context() as patch:
        patch.setattr(lookright.reference.cached, "packed_forward", spy)
        yield passes
