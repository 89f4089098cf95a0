"""Rotary positions with dynamic NTK scaling, computed afresh in every pass: nothing is kept, nothing grows."""

import torch
from torch import Tensor

from lookright.backbones.elementwise import rotate
from lookright.backbones.ixc25.configuration import Ixc25Config


def rotary_base(config: Ixc25Config, num_positions: Tensor) -> Tensor:
    """Base frequency for rows of `num_positions` positions, int64 of any shape: float64 of that shape.

    theta up to `max_position_embeddings` (M), beyond it `theta * (f L / M - (f - 1)) ** (d / (d - 2))`.
    The official code keeps an enlarged base for all later and shorter rows; here a row gets what its own
    length asks for, so that a result does not depend on what ran before.
    """
    theta = float(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "default":
        return torch.full_like(num_positions, theta, dtype=torch.float64)
    factor, limit, width = config.rope_parameters["factor"], config.max_position_embeddings, config.head_dim
    stretch = factor * num_positions.double().clamp(min=limit) / limit - (factor - 1)
    return theta * stretch ** (width / (width - 2))


def rotary_tables(config: Ixc25Config, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of int64[B, L] positions: two of float[B, L, D], halves repeated, in `dtype`.

    Every row of a batch has the base of its own longest position, so it does not depend on its neighbours.
    """
    width = config.head_dim
    base = rotary_base(config, position_ids.amax(-1, keepdim=True) + 1).float()[..., None]
    exponents = torch.arange(0, width, 2, device=position_ids.device, dtype=torch.float32) / width
    angles = position_ids[..., None].float() * (1.0 / base**exponents)
    doubled = torch.cat([angles, angles], dim=-1)
    return doubled.cos().to(dtype), doubled.sin().to(dtype)


def apply_rotary(states_BHLD: Tensor, cos_BLD: Tensor, sin_BLD: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of every head by its position's angles: float[B, H, L, D]."""
    return rotate(states_BHLD, cos_BLD[:, None], sin_BLD[:, None])
