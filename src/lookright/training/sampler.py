"""Which pairs make a batch: a fixed number, or as many as fill a budget of tokens."""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from torch.utils.data import Sampler

from lookright.errors import ConfigError


class PairBatchSampler(Sampler[list[int]]):
    """Batches of indices, the same under a seed on every rank, dealt out to ranks in turn.

    `lengths`: row tokens of each pair. With `max_tokens` a batch takes pairs until the next would pass the
    budget; otherwise it has `batch_size` pairs. Ranks that would have one batch fewer repeat one from the
    front, so that all step together. The number of batches is the same in every epoch: each draws its pairs
    anew, or with `max_tokens` the order of batches that are filled once. `resume_at(n)` leaves out the first n
    batches of this rank's next epoch.
    Raises ConfigError where a single pair is larger than the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        max_tokens: int | None = None,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"data.batch_size={batch_size}; set 1 or more")
        if max_tokens is not None and lengths and max(lengths) > max_tokens:
            raise ConfigError(
                f"data.max_tokens={max_tokens} is smaller than the largest pair ({max(lengths)} tokens); raise it"
            )
        self.lengths = list(lengths)
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> "PairBatchSampler":
        """Where Lightning looks for `set_epoch`: at the sampler inside a batch sampler, never at that itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The order of an epoch depends on the seed and its number alone; Lightning calls this."""
        self.epoch = epoch

    def resume_at(self, num_done: int) -> None:
        """Leave out the batches already done in the epoch that a run goes on with."""
        self._skip = num_done

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip = self._skip, 0
        yield from self._mine()[skip:]

    def _mine(self) -> list[list[int]]:
        batches = self._batches()
        # cycled, since there may be fewer batches than ranks
        batches += islice(cycle(batches), -len(batches) % self.world_size)
        return batches[self.rank :: self.world_size]

    def _batches(self) -> list[list[int]]:
        """Batches of all ranks in this epoch."""
        order = list(range(len(self.lengths)))
        if not self.shuffle:
            return self._filled(order)
        each_epoch = random.Random(f"{self.seed}/{self.epoch}")
        if self.max_tokens is None:
            each_epoch.shuffle(order)
            return self._filled(order)
        # filled anew they could be more than Lightning counted in the first epoch, and it would drop the rest
        random.Random(f"{self.seed}").shuffle(order)
        batches = self._filled(order)
        each_epoch.shuffle(batches)
        return batches

    def _filled(self, order: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        num_tokens = 0
        for index in order:
            length = self.lengths[index]
            if not batches or self._is_full(len(batches[-1]), num_tokens + length):
                batches.append([])
                num_tokens = 0
            batches[-1].append(index)
            num_tokens += length
        return batches

    def _is_full(self, num_pairs: int, tokens_with_next: int) -> bool:
        """Whether a batch of `num_pairs` takes no further pair."""
        return num_pairs == self.batch_size if self.max_tokens is None else tokens_with_next > self.max_tokens
