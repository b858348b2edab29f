"""Rotary positions: queries and keys turned by an angle for each position (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B or 1, 1, L, D), of positions (B or 1, L); pairs are k and k + D/2 (Su et al. 2021)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions.float()[..., None] * (1.0 / theta**steps)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, L, D) with every pair turned by its position's angle."""
    first, second = states.chunk(2, dim=-1)
    cosines, sines = (part.to(states.dtype) for part in rotation)
    return states * cosines + torch.cat([-second, first], dim=-1) * sines
