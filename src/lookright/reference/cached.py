"""Log-probabilities of the reference from a store on disk: training runs no reference pass."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lookright.backbones.adapters import PeftModel
from lookright.common.streams import progress
from lookright.errors import ConfigError, LookRightError
from lookright.packing.batch import PackedBatch, move
from lookright.packing.forward import packed_forward
from lookright.reference.base import ModelPair, Preparation, Reference
from lookright.reference.identity import (
    NO_ADAPTER,
    adapter_identity,
    describe_components,
    fingerprint,
    library_versions,
)
from lookright.reference.store import LogpStore

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Nats per square root of a response's tokens by which a recomputed sum may differ.

A batch of another composition, or another device, multiplies in another order, so that rounding differs;
errors of single tokens have either sign, so that their sum grows with the root. On 8 layers of width 512 the
whole rounding error against float64 was 7e-6 in float32 and 0.05 to 0.08 in bfloat16 (float64 itself: 2e-7, since
the norms stay in float32); deeper models have more. Other weights or pictures are off by whole nats.
"""
SHARED_FOLDER_WAIT = 60
"""Seconds until a network file system is sure to show what another rank has written."""


class CachedLogps(Reference):
    """The reference is the policy as it starts; fits every kind of tuning.

    Before the first step every pair, held out ones too, that the store in `folder` lacks is scored once;
    training then looks its numbers up. `keep_adapter=False` leaves out the adapter that the policy goes on
    from, as `adapter_off` does. One epoch costs as much as with a reference that runs, the same forward passes
    come at another time; every further epoch, and every further run on the same data and model, saves them.

    The store never gives a wrong number: each is keyed by the tokens and pixels that were scored, and a
    folder made by another model, adapter, template, processor or precision is refused with the name of what
    differs. One batch of what was found on disk is recomputed at the start of each run.
    """

    def __init__(self, folder: str, keep_adapter: bool = True) -> None:
        if not folder:
            raise ConfigError("reference.folder is empty; set it to a folder for the log-probabilities")
        self.folder = Path(folder)
        self.keep_adapter = keep_adapter
        self.store: LogpStore
        self._num_ranks = 1

    def attach(self, pair: ModelPair) -> None:
        """Any policy will do."""

    def describe(self) -> str:
        """For the log."""
        return f"reference: log-probabilities of the policy as it starts, cached in {self.folder}"

    def prepare(self, pair: ModelPair, preparation: Preparation) -> None:
        """Open the store, compare one batch with the live reference, compute what is missing.

        Raises LookRightError where the folder belongs to another reference or its numbers are not reproduced.
        """
        adapter = adapter_identity(pair.policy) if self.keep_adapter else NO_ADAPTER
        self._adapter_out = adapter == NO_ADAPTER and isinstance(pair.policy, PeftModel)
        self._num_ranks = preparation.num_ranks
        components = describe_components(pair.backbone, pair.model, adapter, preparation.precision)
        self.store = LogpStore(self.folder, fingerprint(components), components, library_versions())
        num_found = len(self.store)
        pair.to(preparation.device).eval()
        with torch.no_grad(), preparation.context():
            if num_found:
                self._check(pair, preparation)
            self._fill(pair, preparation)
        damaged = f", {self.store.num_damaged} damaged records left out" if self.store.num_damaged else ""
        rank_zero_info(
            f"reference: {num_found} log-probabilities found in {self.folder}, "
            f"{len(self.store) - num_found} computed{damaged}"
        )

    def logps(self, pair: ModelPair, batch: PackedBatch, features: Sequence[Tensor]) -> Tensor:
        """float32[R] (float64 where the model is), looked up."""
        del features
        assert hasattr(self, "store") and len(batch.keys) == batch.scored.num_responses, "prepare comes first"
        self._await(batch)
        dtype = torch.float64 if pair.model.dtype == torch.float64 else torch.float32
        return torch.tensor([self.store[key] for key in batch.keys], dtype=dtype, device=batch.input_ids.device)

    def _live(self, pair: ModelPair, batch: PackedBatch) -> list[float]:
        features = pair.image_features(batch)
        policy: Any = pair.policy
        with policy.disable_adapter() if self._adapter_out else nullcontext():
            return packed_forward(pair.backbone, pair.model, batch, features).logps.double().tolist()

    def _check(self, pair: ModelPair, preparation: Preparation) -> None:
        """Recompute the first batch that the store knows something of."""
        for batch in (batch for loader in preparation.loaders() for batch in loader):
            if any(key in self.store for key in batch.keys):
                self._compare(batch, self._live(pair, move(batch, preparation.device)), pair.model.dtype, preparation)
                return

    def _compare(self, batch: PackedBatch, live: list[float], dtype: torch.dtype, preparation: Preparation) -> None:
        tolerance = max(TOLERANCE[dtype], TOLERANCE[_multiplied_in(preparation.precision, dtype)])
        for response, (key, value) in enumerate(zip(batch.keys, live, strict=True)):
            allowed = tolerance * float(batch.scored.counts()[response]) ** 0.5
            if key in self.store and not abs(self.store[key] - value) <= allowed:
                record = batch.ids[int((batch.first_response <= response).sum()) - 1]
                raise LookRightError(
                    f"reference.folder={self.folder}: record {record} has {self.store[key]:.6g} nats stored, the "
                    f"reference gives {value:.6g} now, which is more than rounding ({allowed:.2g}). Made with "
                    f"{_listed(self.store.versions)}; running {_listed(library_versions())}. Delete the folder: it is "
                    "filled again, or set reference.folder to another one"
                )

    def _fill(self, pair: ModelPair, preparation: Preparation) -> None:
        loaders = preparation.loaders()
        batches: Iterator[PackedBatch] = (batch for loader in loaders for batch in loader)
        if preparation.show_progress:
            batches = progress(batches, sum(len(loader) for loader in loaders), "reference")
        for batch in batches:
            if all(key in self.store for key in batch.keys):
                continue
            values = self._live(pair, move(batch, preparation.device))
            bad = [value for value in values if not abs(value) < float("inf")]
            if bad:
                raise LookRightError(
                    f"the reference gives {bad[0]} nats to an answer of records {', '.join(batch.ids)}; set "
                    "trainer.precision and trainer.model_dtype to a type with more range, such as bfloat16"
                )
            self.store.add(batch.keys, values)
        self.store.close()

    def _await(self, batch: PackedBatch) -> None:
        """Look at the folder again where a key is missing: another rank may have computed it."""
        deadline = time.monotonic() + (SHARED_FOLDER_WAIT if self._num_ranks > 1 else 0)
        while missing := [key for key in batch.keys if key not in self.store]:
            self.store.reload()
            if all(key in self.store for key in missing):
                return
            if time.monotonic() >= deadline:
                raise LookRightError(
                    f"reference.folder={self.folder} lacks {len(missing)} log-probabilities of the batch with records "
                    f"{', '.join(batch.ids)}; records or pictures were changed while the run was on: start it again"
                )
            time.sleep(1)


def _multiplied_in(precision: str, dtype: torch.dtype) -> torch.dtype:
    """The coarsest type that products are taken in."""
    if precision.startswith("bf16") or torch.get_float32_matmul_precision() != "highest":
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else dtype


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
