"""Post-selection's limits and the order of reasons."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

from lookright.errors import ConfigError, RecordError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate, PostFilter
from lookright.selection.none import NoSelection
from lookright.selection.pipeline import SelectionPipeline
from lookright.selection.post import EditDistanceFilter, LengthRatioFilter, PerplexityFilter
from lookright.selection.random import RandomSelection

GOOD = Candidate(
    id="q1", format="sequence", num_sources=2, chosen="circle", rejected="square", attention_ratio=0.2, perplexity=1.5
)


def pipeline() -> SelectionPipeline:
    return SelectionPipeline(AttentionSelection(), [PerplexityFilter(), LengthRatioFilter(), EditDistanceFilter()])


def test_kept_with_every_score() -> None:
    decision = pipeline().decide(GOOD)
    assert decision.keep and decision.reason is None
    # circle -> square: c-s, i-q, r-u, c-a, l-r, e: five of six.
    assert decision.scores == {
        "perplexity": 1.5,
        "length_ratio": 1.0,
        "edit_distance": pytest.approx(5 / 6),
        "attention_ratio": 0.2,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": "The Circle."}, "same_answer"),
        ({"attention_ratio": 0.81}, "attention_ratio"),
        ({"perplexity": 1.1}, "perplexity"),
        ({"rejected": "a b c d"}, "length_ratio"),
        ({"rejected": "circlet", "chosen": "circles of"}, None),
        ({"chosen": "the big red circle", "rejected": "the big rad circle"}, "edit_distance"),
        ({"rejected": ""}, "length_ratio"),
        ({"rejected": "Circle", "attention_ratio": 0.99, "perplexity": 1.0}, "same_answer"),
        ({"attention_ratio": 0.99, "perplexity": 1.0}, "attention_ratio"),
    ],
)
def test_the_first_drop_is_the_reason(change: dict[str, Any], reason: str | None) -> None:
    decision = pipeline().decide(dataclasses.replace(GOOD, **change))
    assert (decision.keep, decision.reason) == (reason is None, reason)
    assert set(decision.scores) == {"attention_ratio", "perplexity", "length_ratio", "edit_distance"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({}, "repeated_answer"), ({"rejected": "circle"}, "same_answer"), ({"attention_ratio": 0.9}, "repeated_answer")],
)
def test_a_repeated_answer_is_dropped_and_never_drawn(change: dict[str, Any], reason: str) -> None:
    repeated = dataclasses.replace(GOOD, repeated=True, **change)
    assert pipeline().decide(repeated).reason == reason
    drawn = SelectionPipeline(RandomSelection(count=1))
    drawn.prepare([repeated, dataclasses.replace(GOOD, id="q2")])
    assert drawn.decide(dataclasses.replace(GOOD, id="q2")).keep


def test_limits_included_or_not() -> None:
    assert not PerplexityFilter().keeps(1.1) and PerplexityFilter().keeps(1.1000001)
    assert LengthRatioFilter().keeps(0.33) and LengthRatioFilter().keeps(3.0)
    assert not LengthRatioFilter().keeps(0.3299) and not LengthRatioFilter().keeps(3.001)
    assert EditDistanceFilter().keeps(0.1) and not EditDistanceFilter().keeps(0.0999)


def test_length_counts_words() -> None:
    assert LengthRatioFilter().score(dataclasses.replace(GOOD, chosen="no", rejected="a dark red triangle")) == 0.25


def table_distance(one: str, other: str) -> int:
    """Levenshtein's distance by the textbook table."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def test_edit_distance_is_the_tables_over_the_longer_answer() -> None:
    rng = random.Random(0)
    drawn = [["".join(rng.choices("abcé😀 ", k=rng.randint(0, 90))) for _ in range(2)] for _ in range(300)]
    for one, other in [("", ""), ("", "abc"), ("abc", ""), ("kitten", "sitting"), (" same ", "same"), *drawn]:
        plain, beside = one.strip(), other.strip()
        longer = max(len(plain), len(beside))
        wanted = table_distance(plain, beside) / longer if longer else 0.0
        score = EditDistanceFilter().score(dataclasses.replace(GOOD, chosen=one, rejected=other))
        assert score == wanted, (one, other)


def test_missing_perplexity_names_the_record() -> None:
    with pytest.raises(RecordError, match="q1: perplexity is None") as caught:
        pipeline().decide(dataclasses.replace(GOOD, perplexity=None))
    assert caught.value.reason == "no_perplexity"


def test_no_selection_takes_every_wrong_answer() -> None:
    naive = SelectionPipeline(NoSelection())
    assert naive.decide(dataclasses.replace(GOOD, attention_ratio=None, perplexity=None)).keep
    assert naive.decide(dataclasses.replace(GOOD, rejected="circle")).reason == "same_answer"
    assert naive.reasons == ["same_answer", "not_selected"] and not naive.needs_prepare


@pytest.mark.parametrize(
    "make",
    [
        lambda: PerplexityFilter(minimum=0.9),
        lambda: LengthRatioFilter(minimum=2.0),
        lambda: LengthRatioFilter(maximum=0.5),
        lambda: EditDistanceFilter(minimum=1.1),
    ],
)
def test_limits_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="set "):
        make()


def test_follow_the_protocol() -> None:
    assert all(isinstance(one, PostFilter) for one in (PerplexityFilter(), LengthRatioFilter(), EditDistanceFilter()))
