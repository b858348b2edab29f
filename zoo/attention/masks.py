"""Attention patterns as the masks that kernels take. Shapes: see the legend in ``zoo.inputs``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo.errors import ZooError
from zoo.inputs import AttentionPattern


class Mask(NamedTuple):
    """Visibility in the form that kernels take, made once per forward pass.

    Args:
        allowed: boolean, broadcastable to (B, H, Q, K), True = may look; ``None`` = no tensor needed.
        causal: let the kernel hide later positions (only where Q = K).
    """

    allowed: Tensor | None
    causal: bool


def make_mask(visible: AttentionPattern, length: int, device: torch.device, past: int = 0) -> Mask:
    """The cheapest mask that expresses ``visible`` for rows of ``length`` tokens.

    Causal rows need no lengths: padding stands at the right, where no real token looks.

    Args:
        visible: who may see whom.
        length: tokens that ask.
        device: where the mask is wanted.
        past: tokens before them in a cache, which are looked at too.
    """
    if visible.orders is not None:
        raise ZooError("this core has one stream and does not read visibility by factorisation orders.")
    positions = torch.arange(past + length, device=device)
    allowed: Tensor | None = None
    if visible.lengths is not None and not visible.causal:
        allowed = (positions[None, :] < visible.lengths[:, None])[:, None, None, :]
    for extra in (_same_document(visible), visible.dense):
        if extra is not None:
            allowed = extra[:, None] if allowed is None else allowed & extra[:, None]
    if not visible.causal:
        return Mask(allowed, False)
    if past == 0 and allowed is None:
        return Mask(None, True)
    if allowed is None and length == 1:
        return Mask(None, False)  # the newest token sees everything
    earlier = positions[None, :] <= positions[past:, None]
    if allowed is None:
        return Mask(earlier[None, None], False)
    itself = positions[None, :] == positions[past:, None]  # padding at the left must see something, or it is NaN
    return Mask((allowed & earlier) | itself, False)


def _same_document(visible: AttentionPattern) -> Tensor | None:
    if visible.documents is None:
        return None
    return visible.documents[:, :, None] == visible.documents[:, None, :]


def visible_keys(
    visible: AttentionPattern,
    positions: Tensor,
    length: int,
    past: int,
    second: bool,
    window: int | None = None,
    remembered: Tensor | None = None,
) -> Tensor | None:
    """(1 or B, Q, K) True where a query may look; ``None`` = everywhere.

    What came before the row is seen by all, unless it is known to be of another document.

    Args:
        visible: the stream's visibility.
        positions: (1 or B, Q) positions of the queries.
        length: L, tokens of the row.
        past: remembered or cached tokens before it.
        second: the queries are a second stream's, and do not see their own position.
        window: hide keys that are so many tokens back or more.
        remembered: (B, M) documents of the remembered tokens.
    """
    keys = torch.arange(-past, length, device=positions.device)
    own = positions[..., None]
    found: Tensor | None = None
    if visible.causal:
        found = keys < own if second else keys <= own
    elif visible.lengths is not None:
        found = keys < visible.lengths[:, None, None]
    if window:
        near = own - keys < window
        found = near if found is None else found & near
    for values, ordered in ((visible.orders, True), (visible.documents, False)):
        if values is not None:
            asking = (values.gather(1, positions) if second else values)[..., None]
            asked = values[:, None, :]
            sees = asking == asked if not ordered else asking > asked if second else asking >= asked
            if remembered is None or ordered:
                sees = functional.pad(sees, (past, 0), value=True)
            else:
                sees = torch.cat([asking == remembered[:, None, :], sees], dim=-1)
            found = sees if found is None else found & sees
    if visible.dense is None:
        return found
    dense = visible.dense[..., -(past + length) :]  # a cache may hold more than is looked at
    dense = functional.pad(dense, (past + length - dense.shape[-1], 0), value=True)
    found = dense if found is None else found & dense
    return found if second or not visible.causal else found | (keys == own)  # padding at the left must see something
