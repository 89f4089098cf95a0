"""Preference pairs for training and validation, in packed batches."""

import hashlib
from collections import Counter
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lookright.backbones.base import Backbone
from lookright.data.encode import encode_preference, row_length
from lookright.data.pictures import Pictures
from lookright.data.readers import RecordSet, load_preferences
from lookright.data.sampler import PairBatchSampler
from lookright.data.validate import BadRecords, OnBadRecord
from lookright.errors import ConfigError, RecordError
from lookright.packed.batch import Example, pack
from lookright.types import Preference


class PairDataset(Dataset[Example]):
    """Records encoded for one backbone when they are asked for."""

    def __init__(self, backbone: Backbone, records: list[Preference], pictures: Pictures) -> None:
        self.backbone, self.records, self.pictures = backbone, records, pictures

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return encode_preference(self.backbone, self.records[index], self.pictures)


class PreferenceData(LightningDataModule):
    """Pairs of one file (`path`), some held out for validation, or those of `val_path`.

    `image_root`: where image paths start (default: the file's folder); `val_fraction`: share held out, drawn
    by a hash of the id, so that it does not depend on order; `formats`: keep only these; `batch_size` in
    pairs, or `max_tokens` a batch; `on_bad_record`: `error`, or `skip` and count. Formats are told by records.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        image_root: str | None = None,
        val_fraction: float = 0.05,
        formats: list[str] | None = None,
        batch_size: int = 1,
        max_tokens: int | None = None,
        num_workers: int = 0,
        on_bad_record: OnBadRecord = "error",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ConfigError(f"data.val_fraction={val_fraction}; a share in [0, 1)")
        self.path, self.val_path, self.image_root = path, val_path, image_root
        self.val_fraction, self.formats = val_fraction, formats
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.num_workers, self.on_bad_record, self.seed = num_workers, on_bad_record, seed
        self.dropped: Counter[str] = Counter()

    def prepare(self, backbone: Backbone, needs_target: bool, rank: int = 0, world_size: int = 1) -> None:
        """Read and check every record; raises LookRightError before any weights load.

        `needs_target`: the loss reads attention on the target, so records without geometry are refused.
        """
        train_set = self._load(self.path)
        if self.val_path is not None:
            train, held_out, val_pictures = train_set.records, *self._load_val()
        else:
            train = [record for record in train_set.records if not self._is_held_out(record.id)]
            held_out = [record for record in train_set.records if self._is_held_out(record.id)]
            val_pictures = train_set.pictures
        train, lengths = self._fitting(backbone, train, train_set.pictures, needs_target)
        held_out, val_lengths = self._fitting(backbone, held_out, val_pictures, needs_target)
        if not train:
            raise ConfigError(f"data.path={self.path}: no pair is left to train on; set data.formats or val_fraction")
        shared = {"batch_size": self.batch_size, "max_tokens": self.max_tokens, "rank": rank, "world_size": world_size}
        self.train_set = PairDataset(backbone, train, train_set.pictures)
        self.val_set = PairDataset(backbone, held_out, val_pictures)
        self.train_sampler = PairBatchSampler(lengths, **shared, seed=self.seed)
        self.val_sampler = PairBatchSampler(val_lengths, **shared, shuffle=False)

    def train_dataloader(self) -> DataLoader:
        """Shuffled by seed and epoch."""
        return self._loader(self.train_set, self.train_sampler)

    def val_dataloader(self) -> DataLoader | list:
        """Held-out pairs in file order; none where nothing is held out."""
        return self._loader(self.val_set, self.val_sampler) if len(self.val_set) else []

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is, in batches of this rank."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
        return {"num_done": 0 if self.trainer.fit_loop.epoch_loop._is_training_done else progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the last batch that was trained on."""
        self.train_sampler.resume_at(state_dict["num_done"])

    def _loader(self, dataset: PairDataset, sampler: PairBatchSampler) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=pack,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _load(self, path: str) -> RecordSet[Preference]:
        loaded = load_preferences(path, self.image_root, self.on_bad_record)
        self.dropped += loaded.dropped
        return loaded

    def _load_val(self) -> tuple[list[Preference], Pictures]:
        loaded = self._load(self.val_path)
        return loaded.records, loaded.pictures

    def _is_held_out(self, record_id: str) -> bool:
        digest = hashlib.blake2b(f"{self.seed}/{record_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.val_fraction * 2**64

    def _fitting(
        self, backbone: Backbone, records: list[Preference], pictures: Pictures, needs_target: bool
    ) -> tuple[list[Preference], list[int]]:
        """Records of the wanted formats that fit the backbone, and their row tokens."""
        bad = BadRecords(self.on_bad_record)
        kept, lengths = [], []
        for record in records:
            if self.formats is not None and record.format not in self.formats:
                self.dropped["other_format"] += 1
                continue
            try:
                if needs_target and record.target is None:
                    raise RecordError(
                        "no_target", "the attention term needs target and regions; set loss.attention.weight=0"
                    )
                lengths.append(row_length(backbone, record, pictures))
                kept.append(record)
            except RecordError as error:
                bad.add(f"record {record.id}", error)
        bad.finish(len(records))
        self.dropped += bad.counts
        return kept, lengths
