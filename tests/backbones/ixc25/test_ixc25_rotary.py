"""Rotary positions: plain up to the limit, dynamic NTK beyond it, nothing remembered."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lookright.backbones.ixc25 import Ixc25Config
from lookright.backbones.ixc25.rotary import apply_rotary, rotary_base, rotary_tables

WIDTH, LIMIT = 128, 24576


def table(positions: np.ndarray, base: float) -> np.ndarray:
    """Cosines in float64 with frequencies rounded to float32 as the official code has them: [L, D]."""
    frequencies = 1 / np.float32(base) ** (np.arange(0, WIDTH, 2, dtype=np.float32) / np.float32(WIDTH))
    angles = positions[:, None].astype(np.float32) * frequencies.astype(np.float32)
    return np.cos(np.concatenate([angles, angles], -1).astype(np.float64))


@pytest.fixture(scope="module")
def config() -> Ixc25Config:
    return Ixc25Config()


@pytest.mark.parametrize(
    ("length", "base"),
    [
        (1, 1e6),
        (LIMIT, 1e6),
        (LIMIT + 1, 1e6 * (2 * (LIMIT + 1) / LIMIT - 1) ** (128 / 126)),
        (36864, 1e6 * 2 ** (128 / 126)),
        (49152, 1e6 * 3 ** (128 / 126)),
    ],
)
def test_base_by_hand(config: Ixc25Config, length: int, base: float) -> None:
    assert rotary_base(config, torch.tensor(length)).item() == pytest.approx(base, rel=1e-12)


@pytest.mark.parametrize(("length", "base"), [(40, 1e6), (LIMIT, 1e6), (36864, 1e6 * 2 ** (128 / 126))])
def test_tables_follow_the_longest_position_of_the_row(config: Ixc25Config, length: int, base: float) -> None:
    positions = torch.cat([torch.arange(5), torch.arange(length - 5, length)])[None]
    cos, sin = rotary_tables(config, positions, torch.float32)
    expected = table(positions[0].numpy(), base)
    # float32 powers differ by a bit in the last place; at position 24,576 that is 2e-3 of a turn's radian
    tolerance = 1e-6 + 2e-7 * length
    assert np.abs(cos[0].numpy() - expected).max() < tolerance
    assert torch.allclose(cos**2 + sin**2, torch.ones_like(cos), atol=1e-6)


def test_a_long_row_leaves_no_trace(config: Ixc25Config) -> None:
    short = torch.arange(12)[None]
    before = rotary_tables(config, short, torch.float32)
    rotary_tables(config, torch.tensor([[60000]]), torch.float32)
    after = rotary_tables(config, short, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_rows_of_a_batch_do_not_depend_on_each_other(config: Ixc25Config) -> None:
    rows = torch.stack([torch.arange(8), torch.arange(8) + 30000])
    together = rotary_tables(config, rows, torch.float32)
    for number in (0, 1):
        alone = rotary_tables(config, rows[number : number + 1], torch.float32)
        assert all(torch.equal(a[number], b[0]) for a, b in zip(together, alone, strict=True))


def test_plain_rope_never_stretches() -> None:
    config = Ixc25Config(rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    assert rotary_base(config, torch.tensor(10**6)).item() == 1e4


def test_rotation_by_hand() -> None:
    # two pairs, (0, 2) and (1, 3); a quarter turn of the first pair, none of the second
    states = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    cos, sin = torch.tensor([[[0.0, 1, 0, 1]]]), torch.tensor([[[1.0, 0, 1, 0]]])
    assert apply_rotary(states, cos, sin).flatten().tolist() == [-3.0, 2.0, 1.0, 4.0]


@torch.no_grad()
def test_the_model_stretches_beyond_its_limit(make_model: Callable) -> None:
    short, long = make_model(max_position_embeddings=8), make_model(max_position_embeddings=64)
    ids = torch.arange(3, 23)[None]
    assert torch.equal(short(input_ids=ids[:, :8]).logits, long(input_ids=ids[:, :8]).logits)
    assert (short(input_ids=ids).logits - long(input_ids=ids).logits).abs().max() > 1e-3
    stretched = 1e6 * (2 * 20 / 8 - 1) ** (8 / 6)
    fixed = make_model(rope_parameters={"rope_type": "default", "rope_theta": stretched})
    assert (short(input_ids=ids).logits - fixed(input_ids=ids).logits).abs().max() < 1e-5
