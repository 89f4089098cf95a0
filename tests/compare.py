"""Comparisons that say by how much they fail."""

from collections.abc import Mapping

import torch
from torch import Tensor

Gradients = Mapping[str, Tensor | None]


def assert_close(
    actual: Tensor, expected: Tensor, *, why: str, atol: float = 0.0, rtol: float = 0.0, name: str = "values"
) -> None:
    """Every |actual - expected| <= atol + rtol |expected|, in float64; `why` is the reason for the tolerance."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)} against {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.isfinite(expected).all(), f"{name}: the expected values are not finite"
    difference = (actual - expected).abs()
    if difference.numel() and not (difference <= atol + rtol * expected.abs()).all():
        raise AssertionError(
            f"{name}: largest difference {difference.max():.3e}, mean {difference.mean():.3e}, at expected values up "
            f"to {expected.abs().max():.3e}; allowed {atol:g} + {rtol:g} x expected ({why})"
        )


def relative_differences(actual: Gradients, expected: Gradients) -> dict[str, float]:
    """|a - b| / |b| of each gradient (Euclidean norms); one that is missing on a single side is infinitely far."""
    assert actual.keys() == expected.keys(), f"only on one side: {sorted(actual.keys() ^ expected.keys())[:5]}"
    found: dict[str, float] = {}
    for name, wanted in expected.items():
        given = actual[name]
        if given is None or wanted is None:
            zero = all(value is None or not value.any() for value in (given, wanted))
            found[name] = 0.0 if zero else float("inf")
            continue
        size = wanted.double().norm()
        difference = (given.double() - wanted.double()).norm()
        found[name] = float(difference / size) if size > 0 else float(difference)
    return found


def assert_same_gradients(actual: Gradients, expected: Gradients, *, rtol: float, why: str) -> None:
    """Every gradient within `rtol` of the expected one, which must not all be zero."""
    assert any(value is not None and value.any() for value in expected.values()), "every expected gradient is zero"
    found = relative_differences(actual, expected)
    worst = max(found, key=found.__getitem__)
    if not found[worst] <= rtol:
        mean = sum(found.values()) / len(found)
        raise AssertionError(
            f"gradients: largest relative difference {found[worst]:.3e} ({worst}), mean {mean:.3e} over "
            f"{len(found)} parameters; allowed {rtol:g} ({why})"
        )
