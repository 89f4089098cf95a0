"""Which decoder layers the attention ratio is read from."""

from collections.abc import Sequence

from lookright.errors import ConfigError

BAND = (0.44, 0.70)
"""First and last layer as shares of the depth: layers 14 to 22 of 32."""


def half_depth(num_layers: int) -> int:
    """The layer for selection, 0-based: 16 of 32."""
    return num_layers // 2


def one_layer(num_layers: int, layer: int | None, *, key: str = "ratio_layer") -> int:
    """A layer number, 0-based; None is half depth. Raises ConfigError naming `key` for one that is not there."""
    if layer is None:
        return half_depth(num_layers)
    if not 0 <= layer < num_layers:
        raise ConfigError(f"{key}={layer}; this model has layers 0 to {num_layers - 1}")
    return layer


def layer_band(
    num_layers: int, layers: Sequence[int] | Sequence[float] | None = None, *, key: str = "loss.attention.layers"
) -> list[int]:
    """Layer numbers, 0-based and ascending.

    `layers` is a list of whole numbers, taken as it is; two shares of the depth `[first, last]` of which
    at least one has a decimal point, both ends included; or None for `BAND`.
    Raises ConfigError naming `key` for anything else.
    """
    values = list(BAND) if layers is None else _numbers(num_layers, layers, key)
    if any(isinstance(value, float) for value in values):
        return _from_shares(num_layers, values, key)
    bad = [value for value in values if not 0 <= value < num_layers]
    if bad or len(set(values)) != len(values):
        raise _refused(num_layers, layers, key, f"{bad[0]} is not a layer" if bad else "a layer is named twice")
    return sorted(int(value) for value in values)


def _numbers(num_layers: int, layers: Sequence[int] | Sequence[float], key: str) -> list[int | float]:
    values = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise _refused(num_layers, layers, key, "not a list of numbers")
    return values


def _from_shares(num_layers: int, shares: Sequence[float], key: str) -> list[int]:
    if len(shares) != 2 or not 0 <= shares[0] <= shares[1] <= 1:
        raise _refused(num_layers, shares, key, "not two shares")
    # The small addend keeps a share that means a whole layer (0.44 x 25) from falling to the one below.
    first, last = (min(int(share * num_layers + 1e-9), num_layers - 1) for share in shares)
    return list(range(first, last + 1))


def _refused(num_layers: int, layers: object, key: str, why: str) -> ConfigError:
    shown = list(layers) if isinstance(layers, tuple) else layers
    return ConfigError(
        f"{key}={shown!r}: {why}; this model has layers 0 to {num_layers - 1}: set a list of them, such as "
        f"[{half_depth(num_layers)}], or two shares of the depth with 0.0 <= first <= last <= 1.0, such as "
        f"{list(BAND)}, or null for that band"
    )
