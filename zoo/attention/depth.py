"""What tells layers that share their weights apart (Dehghani et al. 2018, "Universal Transformers", equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.attention.context import AttentionContext
from zoo.attention.positions import encode_distances


def depth_signal(layer_index: int, like: Tensor) -> Tensor:
    """(W,) sines and cosines of a layer's number, counted from 1, of the type of (B, L, W) states."""
    return encode_distances(torch.tensor(layer_index + 1, device=like.device), like.shape[-1]).to(like.dtype)


def place_signal(position_ids: Tensor | None, shared: AttentionContext, like: Tensor) -> Tensor:
    """(1 or B, L, W) the same of the positions of (B, L, W) states.

    Args:
        position_ids: (1 or B, L); ``None`` = they count on from what a cache holds.
        shared: what all layers have in common, before any of them is run.
        like: the states.
    """
    if position_ids is None:
        past = 0 if shared.cache is None else shared.cache.get_seq_length()
        position_ids = torch.arange(past, past + like.shape[1], device=like.device)[None]
    return encode_distances(position_ids, like.shape[-1]).to(like.dtype)
