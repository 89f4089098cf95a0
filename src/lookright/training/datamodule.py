"""Preference pairs for training and validation, in packed batches."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from lookright.backbones.base import Backbone
from lookright.common.hashing import stable_hash
from lookright.common.path_map import PathMap
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.packing.batch import Example
from lookright.packing.encode import encode_preference, row_length
from lookright.packing.keys import response_keys
from lookright.records.forms import Forms, given_forms
from lookright.records.known_ids import KnownIds
from lookright.records.pictures import Pictures
from lookright.records.readers import load_preferences
from lookright.records.validate import BadRecords, OnBadRecord
from lookright.training.checkpoints import batches_done
from lookright.training.loader import LeftOut, PairLoader, sharing_ranks, workers_of
from lookright.training.sampler import PairBatchSampler
from lookright.types import Preference

log = logging.getLogger(__name__)

Pair = tuple[Preference, Pictures]
"""A record and what opens its pictures."""


class PairDataset(Dataset[Example]):
    """Records encoded for one backbone when they are asked for."""

    def __init__(self, backbone: Backbone, pairs: Sequence[Pair]) -> None:
        self.backbone = backbone
        self.records = [record for record, _ in pairs]
        self.with_keys = False
        self.pictures = [pictures for _, pictures in pairs]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def pairs(self) -> Iterator[Pair]:
        """Records as they are, each with what opens its pictures."""
        return zip(self.records, self.pictures, strict=True)

    def __getitem__(self, index: int) -> Example:
        """Raises RecordError naming the record where its picture broke after it was checked."""
        record = self.records[index]
        try:
            example = encode_preference(self.backbone, record, self.pictures[index])
        except RecordError as error:
            raise RecordError(error.reason, f"record {record.id}: {error}") from error
        if self.with_keys:
            example.keys = response_keys(example)
        return example

    def __getitems__(self, indices: Sequence[int]) -> list[Example | LeftOut]:
        """A batch as loaders ask for it; an error would come out of a worker process without its kind."""
        return [self._example_or_fault(index) for index in indices]

    def _example_or_fault(self, index: int) -> Example | LeftOut:
        try:
            return self[index]
        except RecordError as error:
            return LeftOut(id=self.records[index].id, reason=error.reason, message=str(error))


class PreferenceData(LightningDataModule):
    """Pairs of one file or several (`path`), some held out for validation, or those of `val_path`.

    `image_root`: where image paths start (default: each file's own folder); `val_fraction`: share held out,
    drawn by a hash of the id, so that it does not depend on order, and rows that share the id of their source fall
    on one side; `formats`: keep only these; `batch_size` in pairs, or `max_tokens` a batch; `num_workers` processes
    read pictures, None for as many as suit the device (`loader.workers_of`), and batches do not depend on it;
    `on_bad_record`: `error`, or `skip` and count; `path_map`: prefixes of image paths and what stands in their place;
    `forms`: forms of rows from outside the package, asked before its own. An id of ours
    may come in one file only. Where a Trainer is attached, its ranks share the batches. A record whose picture
    breaks after it was checked is treated by the same rule: it ends the run, or it is missing in its batch.
    """

    def __init__(
        self,
        path: str | list[str],
        val_path: str | list[str] | None = None,
        image_root: str | None = None,
        val_fraction: float = 0.05,
        formats: list[str] | None = None,
        batch_size: int = 1,
        max_tokens: int | None = None,
        num_workers: int | None = None,
        on_bad_record: OnBadRecord = "error",
        seed: int = 0,
        path_map: dict[str, str] | None = None,
        forms: Forms | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ConfigError(f"data.val_fraction={val_fraction}; a share in [0, 1)")
        if batch_size < 1:
            raise ConfigError(f"data.batch_size={batch_size}; set 1 or more")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"data.num_workers={num_workers}; set 0 or more, or null to follow the processors")
        self.path, self.val_path, self.image_root = path, val_path, image_root
        self.val_fraction, self.formats = val_fraction, formats
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.num_workers, self.on_bad_record, self.seed = num_workers, on_bad_record, seed
        self.path_map = PathMap(path_map)
        self.forms = given_forms(forms)
        self.dropped: Counter[str] = Counter()
        self._left_out: dict[str, LeftOut] = {}

    def prepare(self, backbone: Backbone, needs_target: bool, rank: int = 0, world_size: int = 1) -> None:
        """Read and check every record; raises LookRightError before any weights load.

        `needs_target`: the loss reads attention on the target, so records without geometry are refused.
        """
        pairs = self._load(self.path)
        if self.val_path is not None:
            held_out = self._load(self.val_path)
        else:
            held_out = [pair for pair in pairs if self._is_held_out(pair[0])]
            pairs = [pair for pair in pairs if not self._is_held_out(pair[0])]
        self.path_map.check_used()
        self._check_formats([*pairs, *held_out])
        pairs, lengths = self._fitting(backbone, pairs, needs_target)
        held_out, val_lengths = self._fitting(backbone, held_out, needs_target)
        if not pairs:
            raise ConfigError(f"data.path={self.path}: no pair is left to train on; set data.formats or val_fraction")
        self._check_held_out(len(pairs), len(held_out))
        shared = {"batch_size": self.batch_size, "max_tokens": self.max_tokens, "rank": rank, "world_size": world_size}
        self.train_set, self.val_set = PairDataset(backbone, pairs), PairDataset(backbone, held_out)
        self.train_sampler = PairBatchSampler(lengths, **shared, seed=self.seed)
        self.val_sampler = PairBatchSampler(val_lengths, **shared, shuffle=False)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled by seed and epoch; in file order with `trainer.overfit_batches`."""
        sampler = self._dealt(self.train_sampler)
        # Lightning turns off the shuffling of torch's own samplers alone, and every epoch would overfit another batch
        if self.trainer is not None and self.trainer.overfit_batches:
            sampler.shuffle = False
        return self._loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Held-out pairs in file order; none where nothing is held out."""
        return self._loader(self.val_set, self._dealt(self.val_sampler)) if len(self.val_set) else []

    def scoring_dataloaders(self, rank: int, world_size: int) -> list[DataLoader[Any]]:
        """All pairs of a rank once, in file order, held out ones too. From here on every batch has its keys."""
        size = {"batch_size": self.batch_size, "max_tokens": self.max_tokens}
        loaders = []
        for dataset, mine in ((self.train_set, self.train_sampler), (self.val_set, self.val_sampler)):
            dataset.with_keys = True
            if len(dataset):
                order = PairBatchSampler(mine.lengths, **size, shuffle=False, rank=rank, world_size=world_size)
                loaders.append(self._loader(dataset, order))
        return loaders

    def state_dict(self) -> dict[str, Any]:
        """Where a run goes on: the epoch, and how many of this rank's batches are done in it."""
        num_done = batches_done(self.trainer)
        # `current_epoch` is ahead where an epoch ends
        epoch = self.trainer.fit_loop.epoch_progress.current.completed
        if num_done >= self.trainer.num_training_batches:
            return {"epoch": epoch + 1, "num_done": 0}
        return {"epoch": epoch, "num_done": num_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the last batch that was trained on."""
        # Lightning names the epoch after the loader's workers have asked for their first batches
        self.train_sampler.set_epoch(state_dict["epoch"])
        self.train_sampler.resume_at(state_dict["num_done"])

    def teardown(self, stage: str) -> None:
        """Count what was left out on other ranks; each has noted its own batches."""
        del stage
        if self.trainer is None or self.trainer.world_size == 1 or not torch.distributed.is_initialized():
            return
        parts: list[dict[str, LeftOut]] = [{} for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(parts, self._left_out)
        for item in (item for part in parts for item in part.values()):
            self._count(item)

    def _note(self, item: LeftOut) -> None:
        """Treat a record that is missing in a batch as `on_bad_record` says. Raises LookRightError."""
        if self.on_bad_record == "error":
            folder = "the folder of the run" if self.trainer is None else self.trainer.default_root_dir
            raise LookRightError(
                f"{item.message} [{item.reason}]; it was whole when the run started. Repair it and go on from the last "
                f"checkpoint with resume={folder}, or start anew with data.on_bad_record=skip to leave such records out"
            )
        if self._count(item):
            log.warning("left out: %s [%s]", item.message, item.reason)

    def _count(self, item: LeftOut) -> bool:
        """Count a record once, however many epochs miss it; tells whether it is new."""
        if item.id in self._left_out:
            return False
        self._left_out[item.id] = item
        self.dropped[item.reason] += 1
        return True

    def _dealt(self, sampler: PairBatchSampler) -> PairBatchSampler:
        """The sampler, giving this process its part."""
        if self.trainer is not None:
            sampler.rank, sampler.world_size = self.trainer.global_rank, self.trainer.world_size
        return sampler

    def _loader(self, dataset: PairDataset, sampler: PairBatchSampler) -> DataLoader[Any]:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        num_workers = self.num_workers
        if num_workers is None:
            num_workers = workers_of(device, sharing_ranks(self.trainer))
        return PairLoader(
            dataset,
            self._note,
            batch_sampler=sampler,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            # of its own, so that a pass over the data more or less changes no other random number
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=num_workers > 0,
        )

    def _load(self, path: str | list[str]) -> list[Pair]:
        """Pairs of one file or several. Raises LookRightError."""
        pairs: list[Pair] = []
        ids = KnownIds()
        for name in [path] if isinstance(path, str) else path:
            loaded = load_preferences(name, self.image_root, self.on_bad_record, self.path_map, ids, self.forms)
            self.dropped += loaded.dropped
            pairs += [(record, loaded.pictures) for record in loaded.records]
        return pairs

    def _is_held_out(self, record: Preference) -> bool:
        record_id = record.provenance.get("original_id", record.id)
        return stable_hash(f"{self.seed}/{record_id}") < self.val_fraction * 2**64

    def _check_held_out(self, num_pairs: int, num_held_out: int) -> None:
        """A validation that was asked for and has no pair would be silent. Raises ConfigError for a file of none."""
        if num_held_out or (self.val_path is None and not self.val_fraction):
            return
        if self.val_path is not None:
            raise ConfigError(
                f"data.val_path={self.val_path}: no pair is left to validate on; set data.formats, or null"
            )
        rank_zero_warn(
            f"data.val_fraction={self.val_fraction} of {num_pairs} pairs holds out none: there is no validation. Set a "
            "larger share, or data.val_path; 0 asks for none"
        )

    def _check_formats(self, pairs: Sequence[Pair]) -> None:
        """Raise ConfigError for a name in `formats` that no record has: misspelt, it would leave a format out."""
        found = {str(record.format) for record, _ in pairs}
        unknown = [name for name in self.formats or [] if name not in found]
        if unknown:
            raise ConfigError(
                f"data.formats={list(self.formats)}: no record has the format {unknown[0]!r}; "
                f"the records have {', '.join(sorted(found))}"
            )

    def _fitting(self, backbone: Backbone, pairs: Sequence[Pair], needs_target: bool) -> tuple[list[Pair], list[int]]:
        """Pairs of the wanted formats that fit the backbone, and their row tokens."""
        bad = BadRecords(self.on_bad_record)
        kept, lengths = [], []
        for record, pictures in pairs:
            if self.formats is not None and record.format not in self.formats:
                self.dropped["other_format"] += 1
                continue
            try:
                if needs_target and record.target is None:
                    raise RecordError(
                        "no_target", "the attention term needs target and regions; set loss.attention.weight=0"
                    )
                lengths.append(row_length(backbone, record, pictures))
                kept.append((record, pictures))
            except RecordError as error:
                bad.add(f"record {record.id}", error)
        bad.finish(len(pairs))
        self.dropped += bad.counts
        return kept, lengths
