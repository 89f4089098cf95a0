"""Which layers are read."""

from typing import Any

import pytest

from lookright.attention.band import half_depth, layer_band
from lookright.errors import ConfigError


def test_default_band_of_the_papers_depth() -> None:
    assert layer_band(32) == list(range(14, 23))
    assert half_depth(32) == 16


@pytest.mark.parametrize(
    ("num_layers", "expected"), [(1, [0]), (2, [0, 1]), (4, [1, 2]), (6, [2, 3, 4]), (25, list(range(11, 18)))]
)
def test_default_band_at_other_depths(num_layers: int, expected: list[int]) -> None:
    assert layer_band(num_layers, None) == expected


def test_given_layers_and_shares() -> None:
    assert layer_band(8, [5, 2]) == [2, 5]
    assert layer_band(8, [0, 1]) == [0, 1]
    assert layer_band(8, [0.0, 1.0]) == list(range(8))
    assert layer_band(8, [0, 0.5]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "layers",
    [[8], [-1], [1, 1], [], [0.5], [0.7, 0.4], [0.1, 1.5], [0.1, 0.2, 0.3], ["a"], "14-22", 3, [True]],
)
def test_bad_values_name_the_valid_range(layers: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss\.attention\.layers=.*layers 0 to 7"):
        layer_band(8, layers)
