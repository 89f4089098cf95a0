"""A cached reference gives the numbers of the one that runs, and computes each of them once."""

import random
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import LookRightError
from lookright.packing.batch import move
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.cached import TOLERANCE, CachedLogps
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.datamodule import PreferenceData
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import lively_model, shake_adapters
from tests.reference.cached_parts import (
    NUM_RESPONSES,
    all_batches,
    counted_passes,
    load_data,
    make_pair,
    preparation,
    prepared,
    reference_of,
    write_data,
)

# Sums of about ten tokens near -50 nats. A batch of another composition may multiply in another order, so the last
# bits may differ; a float64 model has its norms in float32, so it too is not exact beyond some 1e-7.
CLOSE = {torch.float64: 1e-6, torch.float32: 2e-4}


@pytest.fixture()
def data(tmp_path: Path, llava: LlavaBackbone) -> PreferenceData:
    return load_data(write_data(tmp_path / "data"), llava)


def assert_same_numbers(pair: ModelPair, live: Reference, data: PreferenceData, close: float) -> None:
    """The reference of `pair` against `live`, attached to the policy as `pair` started."""
    batches = all_batches(data)
    assert sum(batch.num_prompts for batch in batches) == 6 and len(data.val_set) > 0
    for batch in batches:
        features = pair.image_features(batch)
        with torch.no_grad():
            wanted = live.logps(pair, batch, features)
        found = pair.reference_logps(batch, features)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        difference = (found - wanted).abs()
        assert difference.max() <= close, f"largest {difference.max():.3e}, mean {difference.mean():.3e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_base_model_after_the_adapters_have_moved(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData, dtype: torch.dtype
) -> None:
    pair = prepared(llava, data, tmp_path / "store", dtype=dtype)
    shake_adapters(pair.policy)
    assert_same_numbers(pair, AdapterOff(), data, CLOSE[dtype])


def test_equal_to_the_last_bit_where_the_batch_is_the_same(tmp_path: Path, llava: LlavaBackbone) -> None:
    data = load_data(write_data(tmp_path / "data"), llava, batch_size=1)
    pair = prepared(llava, data, tmp_path / "store", dtype=torch.float32)
    shake_adapters(pair.policy)
    assert_same_numbers(pair, AdapterOff(), data, close=0.0)


def test_full_tuning_keeps_the_policy_as_it_started(tmp_path: Path, llava: LlavaBackbone, data: PreferenceData) -> None:
    pair = prepared(llava, data, tmp_path / "store", tuning=FullTuning(train_projector=True))
    live = FrozenCopy()
    live.attach(pair)
    with torch.no_grad():
        for parameter in pair.policy.parameters():
            parameter.mul_(1.1)
    assert_same_numbers(pair, live, data, CLOSE[torch.float64])


def test_goes_on_from_an_adapter_with_it_or_without(tmp_path: Path, llava: LlavaBackbone, data: PreferenceData) -> None:
    first = LoraTuning(r=4, alpha=8, dropout=0.0).apply(llava, lively_model(llava))
    shake_adapters(first).save_pretrained(tmp_path / "adapter")
    tuning = LoraTuning(adapter=str(tmp_path / "adapter"))
    kept = prepared(llava, data, tmp_path / "kept", tuning=tuning)
    live = FrozenCopy()
    live.attach(kept)
    left_out = prepared(llava, data, tmp_path / "left_out", tuning=tuning, keep_adapter=False)
    batch = all_batches(data)[0]
    assert (reference_of(kept, batch) - reference_of(left_out, batch)).abs().max() > 0.1
    for pair, reference in ((kept, live), (left_out, AdapterOff())):
        shake_adapters(pair.policy, seed=7)
        assert_same_numbers(pair, reference, data, CLOSE[torch.float64])


def test_autocast_is_that_of_the_run(tmp_path: Path, llava: LlavaBackbone, data: PreferenceData) -> None:
    options = {"precision": "bf16-mixed", "context": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
    pair = prepared(llava, data, tmp_path / "store", dtype=torch.float32, **options)
    exact = prepared(llava, data, tmp_path / "exact", dtype=torch.float32)
    with options["context"]():
        # the tolerance of the check at the start, which this measures: 16 tokens at most
        assert_same_numbers(pair, AdapterOff(), data, close=TOLERANCE[torch.bfloat16] * 4)
    batch = all_batches(data)[0]
    assert not torch.equal(reference_of(pair, batch), reference_of(exact, batch))


def test_a_second_run_recomputes_one_batch_to_compare_and_nothing_else(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_passes(monkeypatch) as passes:
        first = prepared(llava, data, tmp_path / "store")
    assert sorted(id_ for ids in passes for id_ in ids) == [f"r{number}" for number in range(6)]
    assert len(first.reference.store) == NUM_RESPONSES
    with counted_passes(monkeypatch) as passes:
        second = prepared(llava, data, tmp_path / "store")
        assert len(passes) == 1, "the comparison at the start"
        for batch in all_batches(data):
            assert torch.equal(reference_of(first, batch), reference_of(second, batch))
        assert len(passes) == 1
    assert len(list((tmp_path / "store").iterdir())) == 2, "the second run wrote no shard"


def test_goes_on_where_a_kill_left_it(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt), counted_passes(monkeypatch, fail_after=2) as before:
        prepared(llava, data, tmp_path / "store")
    with counted_passes(monkeypatch) as after:
        pair = prepared(llava, data, tmp_path / "store")
    compared, computed = after[0], after[1:]
    assert compared == before[0]
    assert sorted(id_ for ids in before + computed for id_ in ids) == [f"r{number}" for number in range(6)]
    assert_same_numbers(pair, AdapterOff(), data, CLOSE[torch.float64])


def test_ranks_share_the_work_and_each_finds_what_the_other_computed(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [make_pair(llava, CachedLogps(str(tmp_path / "store"))) for _ in range(2)]
    with counted_passes(monkeypatch) as passes:
        pairs[0].reference.prepare(pairs[0], preparation(data, rank=0, num_ranks=2))
        num_mine = len(pairs[0].reference.store)
        assert 0 < num_mine < NUM_RESPONSES
        pairs[1].reference.prepare(pairs[1], preparation(data, rank=1, num_ranks=2))
    assert {id_ for ids in passes for id_ in ids} == {f"r{number}" for number in range(6)}
    for pair in pairs:
        assert_same_numbers(pair, AdapterOff(), data, CLOSE[torch.float64])


def test_other_batches_and_workers_find_the_same_numbers(tmp_path: Path, llava: LlavaBackbone) -> None:
    path = write_data(tmp_path / "data")
    prepared(llava, load_data(path, llava), tmp_path / "store")
    data = load_data(path, llava, batch_size=1, max_tokens=120, num_workers=1)
    pair = prepared(llava, data, tmp_path / "store")
    assert len(pair.reference.store) == NUM_RESPONSES
    assert_same_numbers(pair, AdapterOff(), data, CLOSE[torch.float64])


def test_keys_cost_nothing_where_nobody_asks_and_move_with_the_batch(data: PreferenceData) -> None:
    assert all(batch.keys == [] for batch in all_batches(data))
    data.scoring_dataloaders(0, 1)
    batch = all_batches(data)[0]
    assert len(batch.keys) == batch.scored.num_responses == len(set(batch.keys))
    assert move(batch, torch.device("cpu")).keys == batch.keys
    assert move_data_to_device(batch, torch.device("cpu")).keys == batch.keys


def test_preparing_draws_no_random_number_and_leaves_what_trains(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData
) -> None:
    pair = make_pair(llava, CachedLogps(str(tmp_path / "store")))
    trained = [name for name, parameter in pair.named_parameters() if parameter.requires_grad]
    before, plain = torch.get_rng_state(), random.getstate()
    pair.reference.prepare(pair, preparation(data))
    assert torch.equal(torch.get_rng_state(), before) and random.getstate() == plain
    assert [name for name, parameter in pair.named_parameters() if parameter.requires_grad] == trained


def test_numbers_that_are_none_are_refused(tmp_path: Path, llava: LlavaBackbone, data: PreferenceData) -> None:
    pair = make_pair(llava, CachedLogps(str(tmp_path / "store")))
    with torch.no_grad():
        pair.model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(LookRightError, match="trainer.model_dtype"):
        pair.reference.prepare(pair, preparation(data))


def test_a_batch_that_was_never_scored_is_refused_by_name(
    tmp_path: Path, llava: LlavaBackbone, data: PreferenceData
) -> None:
    pair = prepared(llava, data, tmp_path / "store")
    batch = all_batches(data)[0]
    batch.keys[0] = "0" * 32
    with pytest.raises(LookRightError, match=f"lacks 1 log-probabilities.*{batch.ids[0]}"):
        reference_of(pair, batch)
