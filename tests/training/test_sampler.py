import random
from collections import Counter

import pytest

from lookright.errors import ConfigError
from lookright.training.sampler import PairBatchSampler

LENGTHS = [random.Random(0).randint(20, 400) for _ in range(101)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("budget", [400, 401, 777, 5000, 10**6])
def test_a_budget_is_never_exceeded_and_never_wasted(budget: int) -> None:
    shuffled = list(PairBatchSampler(LENGTHS, 1, budget))
    batches = list(PairBatchSampler(LENGTHS, 1, budget, shuffle=False))
    assert sorted(flat(batches)) == sorted(flat(shuffled)) == list(range(101))
    assert all(sum(LENGTHS[index] for index in batch) <= budget for batch in shuffled)
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        total = sum(LENGTHS[index] for index in batch)
        assert total <= budget
        if following:
            assert total + LENGTHS[following[0]] > budget, "the next pair would have fitted"


@pytest.mark.parametrize("batch_size", [1, 7, 101, 500])
def test_a_fixed_number_of_pairs(batch_size: int) -> None:
    batches = list(PairBatchSampler(LENGTHS, batch_size))
    assert sorted(flat(batches)) == list(range(101))
    assert all(len(batch) == batch_size for batch in batches[:-1]) and len(batches) == -(-101 // batch_size)


def test_the_same_under_a_seed_and_another_each_epoch() -> None:
    one, other = PairBatchSampler(LENGTHS, 4, seed=1), PairBatchSampler(LENGTHS, 4, seed=1)
    first = list(one)
    assert first == list(one) == list(other) and flat(first) != list(range(101))
    assert first != list(PairBatchSampler(LENGTHS, 4, seed=2))
    one.set_epoch(1)
    second = list(one)
    assert second != first and sorted(flat(second)) == list(range(101))
    one.set_epoch(0)
    assert list(one) == first


def test_without_shuffling_order_is_kept() -> None:
    assert flat(list(PairBatchSampler(LENGTHS, 4, 900, shuffle=False))) == list(range(101))


@pytest.mark.parametrize("world_size", [2, 3, 8, 64])
@pytest.mark.parametrize("options", [{"batch_size": 1, "max_tokens": 900}, {"batch_size": 4}])
def test_ranks_share_the_whole_and_step_together(options: dict, world_size: int) -> None:
    whole = list(PairBatchSampler(LENGTHS, **options, seed=3))
    ranks = [
        list(PairBatchSampler(LENGTHS, **options, seed=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    num_steps = -(-len(whole) // world_size)
    assert [len(batches) for batches in ranks] == [num_steps] * world_size
    dealt = Counter(tuple(batch) for batches in ranks for batch in batches)
    assert set(dealt) == {tuple(batch) for batch in whole}
    assert dealt.total() - len(whole) == num_steps * world_size - len(whole) < world_size
    # batch number n of the run is what one rank alone would have taken
    assert [ranks[step % world_size][step // world_size] for step in range(len(whole))] == whole


def test_more_ranks_than_batches_repeat_them_round() -> None:
    ranks = [list(PairBatchSampler([5, 5], 1, rank=rank, world_size=5, shuffle=False)) for rank in range(5)]
    assert ranks == [[[0]], [[1]], [[0]], [[1]], [[0]]]


def test_a_resumed_epoch_leaves_out_what_was_done_once() -> None:
    sampler = PairBatchSampler(LENGTHS, 1, 900, seed=5, rank=1, world_size=2)
    whole = list(sampler)
    sampler.resume_at(3)
    assert list(sampler) == whole[3:]
    assert list(sampler) == whole and len(sampler) == len(whole)


@pytest.mark.parametrize("options", [{"batch_size": 1, "max_tokens": 900}, {"batch_size": 4}])
def test_every_epoch_has_as_many_batches(options: dict) -> None:
    """Lightning counts them once; an epoch with more would lose pairs, and the schedule its end."""
    sampler = PairBatchSampler(LENGTHS, **options)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(flat(orders[-1])) == list(range(101)) and len(sampler) == len(orders[-1]) == len(orders[0])
    assert len({str(order) for order in orders}) == 4


def test_a_batch_may_fill_its_budget_to_the_last_token() -> None:
    assert list(PairBatchSampler([5, 5, 4, 7], 1, max_tokens=10, shuffle=False)) == [[0, 1], [2], [3]]


def test_a_pair_over_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.max_tokens=399 .*\(400 tokens\); raise it"):
        PairBatchSampler([*LENGTHS, 400], 1, 399)
    with pytest.raises(ConfigError, match="data.batch_size=0"):
        PairBatchSampler(LENGTHS, 0)


def test_nothing_to_sample_is_nothing() -> None:
    assert list(PairBatchSampler([], 2, 100, world_size=3)) == []
