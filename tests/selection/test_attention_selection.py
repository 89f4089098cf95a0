"""The thresholds of the method, and what happens beyond them."""

from typing import Any

import pytest

from lookright.errors import ConfigError, RecordError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate, Selection


def candidate(format_name: str, num_images: int, ratio: float | None) -> Candidate:
    return Candidate(
        id="q1", format=format_name, num_sources=num_images, chosen="circle", rejected="square", attention_ratio=ratio
    )


@pytest.mark.parametrize(
    ("format_name", "num_images", "threshold"),
    [
        *[("sequence", *pair) for pair in ((2, 0.8), (3, 0.7), (4, 0.6), (5, 0.6))],
        *[("grid_collage", *pair) for pair in ((2, 0.7), (3, 0.6), (4, 0.5), (6, 0.4), (9, 0.3))],
        *[("pic_in_pic", *pair) for pair in ((2, 0.8), (1, 0.8))],
    ],
)
def test_each_threshold_from_both_sides(format_name: str, num_images: int, threshold: float) -> None:
    rule = AttentionSelection()
    assert rule.threshold(format_name, num_images) == threshold
    assert rule.keeps(candidate(format_name, num_images, threshold - 1e-6))
    assert rule.keeps(candidate(format_name, num_images, threshold)) == (format_name == "sequence")
    assert not rule.keeps(candidate(format_name, num_images, threshold + 1e-6))


def test_unknown_count_or_format_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"for 7 images, only for 2, 3, 4, 5; set selection\.thresholds\.sequence\.7"):
        AttentionSelection().keeps(candidate("sequence", 7, 0.1))
    with pytest.raises(ConfigError, match=r"set selection\.thresholds\.spiral"):
        AttentionSelection().threshold("spiral", 2)


def test_counts_spelt_as_text_and_other_limits() -> None:
    rule = AttentionSelection({"sequence": {"7": 0.5}, "spiral": 0.4}, inclusive=["spiral"])
    assert rule.threshold("sequence", 7) == 0.5
    assert not rule.keeps(candidate("sequence", 7, 0.5))
    assert rule.keeps(candidate("spiral", 12, 0.4))


@pytest.mark.parametrize("ratio", [None, float("nan")])
def test_a_missing_ratio_names_the_record(ratio: float | None) -> None:
    with pytest.raises(RecordError, match="q1: attention_ratio") as caught:
        AttentionSelection().keeps(candidate("sequence", 2, ratio))
    assert caught.value.reason == "no_attention_ratio"


@pytest.mark.parametrize(
    "thresholds", [{"sequence": 1.2}, {"sequence": {2: -0.1}}, {"sequence": {}}, {"sequence": {"two": 0.5}}]
)
def test_bad_thresholds(thresholds: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"selection\.thresholds\.sequence"):
        AttentionSelection(thresholds)


def test_inclusive_must_have_a_threshold() -> None:
    with pytest.raises(ConfigError, match=r"selection\.inclusive names 'sequense'"):
        AttentionSelection(inclusive=["sequense"])


def test_follows_the_protocol() -> None:
    assert isinstance(AttentionSelection(), Selection)
