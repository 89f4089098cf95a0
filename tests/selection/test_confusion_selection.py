"""The rule that asks for another image's answer beside a low ratio: which drops, under which name, what it refuses."""

import dataclasses
from collections import Counter

import pytest

from lookright.errors import RecordError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate, Selection
from lookright.selection.confusion import ConfusionSelection
from lookright.selection.pipeline import SelectionPipeline
from lookright.selection.random import RandomSelection
from tests.selection.test_random_selection import FILTERS, kept, pool

CONFUSED = Candidate(
    id="q1",
    format="sequence",
    num_sources=3,
    chosen="red circle",
    rejected="blue square",
    attention_ratio=0.2,
    perplexity=1.5,
    companion_answers=("green circle", "blue square"),
)


@pytest.mark.parametrize(
    ("rejected", "ratio", "reason"),
    [
        ("blue square", 0.2, None),
        ("It is a Blue Square.", 0.7, None),  # in a sentence, and at the sequence's threshold, which counts as below
        ("blue square", 0.71, "attention_ratio"),
        ("black square", 0.2, "no_confusion"),
        ("black square", 0.71, "attention_ratio"),
        ("red square", 0.2, "no_confusion"),  # parts of two answers are neither image's answer
        ("not a blue square", 0.2, "no_confusion"),
        ("a red circle", 0.2, "same_answer"),
    ],
)
def test_reason_of_each_drop(rejected: str, ratio: float, reason: str | None) -> None:
    candidate = dataclasses.replace(CONFUSED, rejected=rejected, attention_ratio=ratio)
    pipeline = SelectionPipeline(ConfusionSelection(), FILTERS)
    assert pipeline.decide(candidate).reason == reason
    assert pipeline.reasons == ["same_answer", "attention_ratio", "no_confusion", "perplexity", "length_ratio"]


def test_an_answer_that_the_target_shares_is_no_confusion() -> None:
    """The companion's answer is the ground truth in other words: who says it is right."""
    shared = dataclasses.replace(CONFUSED, rejected="circle", companion_answers=("The red circle", "green circle"))
    assert ConfusionSelection().drop_reason(shared) == "no_confusion" and not ConfusionSelection().keeps(shared)


def test_takes_a_part_of_what_the_attention_rule_takes() -> None:
    answers = ("square", "one two three four five", "triangle")
    candidates = [
        dataclasses.replace(one, companion_answers=(answers[number % 3],)) for number, one in enumerate(pool())
    ]
    attention = kept(SelectionPipeline(AttentionSelection(), FILTERS), candidates)
    confusion = kept(SelectionPipeline(ConfusionSelection(), FILTERS), candidates)
    assert confusion == [one for one in attention if one.rejected in one.companion_answers]
    assert 0 < len(confusion) < len(attention)


def test_random_control_of_as_many_pairs() -> None:
    candidates = [dataclasses.replace(one, companion_answers=("square",)) for one in pool()]
    rule = RandomSelection(match=ConfusionSelection())
    assert rule.needs_companions and rule.needs_attention

    def cells(found: list[Candidate]) -> Counter:
        return Counter((one.format, one.num_sources) for one in found)

    wanted = cells(kept(SelectionPipeline(ConfusionSelection(), FILTERS), candidates))
    assert cells(kept(SelectionPipeline(rule, FILTERS), candidates)) == wanted


@pytest.mark.parametrize("ratio", [0.2, 0.9])
def test_unknown_companions_name_record_and_remedy(ratio: float) -> None:
    unknown = dataclasses.replace(CONFUSED, attention_ratio=ratio, companion_answers=())
    with pytest.raises(RecordError, match=r"q1: .* set companions=same_question .* selection=attention") as caught:
        SelectionPipeline(ConfusionSelection()).decide(unknown)
    assert caught.value.reason == "no_companion_answers"
    # what is right needs no selection
    right = dataclasses.replace(unknown, rejected="red circle")
    assert SelectionPipeline(ConfusionSelection()).decide(right).reason == "same_answer"


def test_follows_the_protocol_and_takes_the_same_settings() -> None:
    assert isinstance(ConfusionSelection(), Selection)
    rule = ConfusionSelection({"sequence": {3: 0.1}}, inclusive=[])
    assert rule.threshold("sequence", 3) == 0.1 and rule.drop_reason(CONFUSED) == "attention_ratio"
