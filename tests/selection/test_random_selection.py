"""The control: exact counts, blind to attention, independent of order and shards."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from lookright.errors import ConfigError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate, Selection
from lookright.selection.pipeline import SelectionPipeline
from lookright.selection.post import LengthRatioFilter, PerplexityFilter
from lookright.selection.random import RandomSelection


def pool(size: int = 600) -> list[Candidate]:
    """Answers of which some equal the truth and some fall to a filter."""
    rng = random.Random(0)
    cells = [("sequence", 2), ("sequence", 3), ("grid_collage", 4), ("pic_in_pic", 2)]
    found = []
    for index in range(size):
        format_name, num_images = cells[index % 4]
        found.append(
            Candidate(
                id=f"q{index}",
                format=format_name,
                num_sources=num_images,
                chosen="circle",
                rejected=rng.choice(["square", "Circle.", "one two three four five"]),
                attention_ratio=rng.random(),
                perplexity=1 + rng.random(),
            )
        )
    return found


def kept(pipeline: SelectionPipeline, candidates: Sequence[Candidate]) -> list[Candidate]:
    pipeline.prepare(iter(candidates))
    return [one for one in candidates if pipeline.decide(one).keep]


def cells(candidates: Sequence[Candidate]) -> Counter:
    return Counter((one.format, one.num_sources) for one in candidates)


FILTERS = (PerplexityFilter(), LengthRatioFilter())


def test_as_many_pairs_as_attention_in_every_cell_after_the_filters() -> None:
    candidates = pool()
    by_attention = kept(SelectionPipeline(AttentionSelection(), FILTERS), candidates)
    drawn = kept(SelectionPipeline(RandomSelection(match=AttentionSelection()), FILTERS), candidates)
    assert cells(drawn) == cells(by_attention)
    assert {one.id for one in drawn} != {one.id for one in by_attention}
    assert max(one.attention_ratio for one in drawn) > 0.9  # attention did not decide


def test_independent_of_order_and_shards() -> None:
    candidates = pool()
    shuffled = random.Random(1).sample(candidates, len(candidates))
    first = SelectionPipeline(RandomSelection(match=AttentionSelection()), FILTERS)
    second = SelectionPipeline(RandomSelection(match=AttentionSelection()), FILTERS)
    expected = {one.id for one in kept(first, candidates)}
    assert {one.id for one in kept(second, shuffled)} == expected
    shards = [candidates[index::3] for index in range(3)]
    assert {one.id for shard in shards for one in shard if second.decide(one).keep} == expected


def test_another_seed_draws_others() -> None:
    candidates = pool()
    drawn = [
        {one.id for one in kept(SelectionPipeline(RandomSelection(seed=seed, count=20)), candidates)} for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1] and len(drawn[0]) == len(drawn[1]) == 80


def test_exact_count_in_each_cell_or_all_there_are(caplog: pytest.LogCaptureFixture) -> None:
    candidates = pool()
    assert set(cells(kept(SelectionPipeline(RandomSelection(count=7)), candidates)).values()) == {7}
    few = candidates[:8]
    eligible = [one for one in few if one.rejected != "Circle."]
    assert len(kept(SelectionPipeline(RandomSelection(count=7)), few)) == len(eligible)
    assert "random selection wants 7 pairs" in caplog.text


def test_share_is_near_and_needs_no_first_pass() -> None:
    rule = RandomSelection(share=0.25)
    assert not rule.needs_prepare and not rule.needs_attention
    candidates = [Candidate(id=str(i), format="sequence", num_sources=2, chosen="a", rejected="b") for i in range(4000)]
    # Standard deviation sqrt(4000 * 0.25 * 0.75) = 27; four of them.
    assert abs(sum(rule.keeps(one) for one in candidates) - 1000) < 110


@pytest.mark.parametrize(
    "options", [{}, {"share": 0.5, "count": 3}, {"share": 0.0}, {"share": 1.5}, {"count": 0}, {"count": 2.5}]
)
def test_exactly_one_way_to_say_how_many(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="selection"):
        RandomSelection(**options)


def test_follows_the_protocol() -> None:
    assert isinstance(RandomSelection(count=1), Selection)
