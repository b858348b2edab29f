"""Attention patterns as the masks that kernels take. Shapes: see the legend in ``zoo.inputs``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo.errors import ZooError
from zoo.inputs import AttentionPattern


class Mask(NamedTuple):
    """An attention pattern in the form that kernels take, made once per forward pass.

    Args:
        allowed: boolean, broadcastable to (B, H, Q, K), True = query attends to key; ``None`` = no tensor needed.
        causal: let the kernel hide later positions (only where Q = K).
    """

    allowed: Tensor | None
    causal: bool

    def of_rows(self, rows: Tensor, length: int) -> Mask:
        """The same for the queries at (B, R) ``rows`` alone, of a row of ``length`` tokens."""
        allowed = self.allowed
        if allowed is not None and allowed.shape[2] > 1:
            index = rows[:, None, :, None].expand(-1, allowed.shape[1], -1, allowed.shape[3])
            allowed = allowed.expand(len(rows), -1, -1, -1).gather(2, index)
        if not self.causal:
            return Mask(allowed, False)
        earlier = torch.arange(length, device=rows.device) <= rows[:, None, :, None]
        return Mask(earlier if allowed is None else allowed & earlier, False)


def make_mask(attention_pattern: AttentionPattern, length: int, device: torch.device, past: int = 0) -> Mask:
    """The cheapest mask that expresses ``attention_pattern`` for rows of ``length`` tokens.

    Causal rows need no lengths: padding stands at the right, which no real token attends to.

    Args:
        attention_pattern: which tokens attend to which.
        length: queries.
        device: where the mask is wanted.
        past: tokens before them in a cache, which are keys too.
    """
    if attention_pattern.permutation_ranks is not None:
        raise ZooError("this core has one stream and does not read permutation ranks.")
    positions = torch.arange(past + length, device=device)
    allowed: Tensor | None = None
    if attention_pattern.lengths is not None and not attention_pattern.causal:
        allowed = (positions[None, :] < attention_pattern.lengths[:, None])[:, None, None, :]
    for extra in (_same_document(attention_pattern), attention_pattern.dense):
        if extra is not None:
            allowed = extra[:, None] if allowed is None else allowed & extra[:, None]
    if not attention_pattern.causal:
        return Mask(allowed, False)
    if past == 0 and allowed is None:
        return Mask(None, True)
    if allowed is None and length == 1:
        return Mask(None, False)  # the newest token attends to everything
    earlier = positions[None, :] <= positions[past:, None]
    if allowed is None:
        return Mask(earlier[None, None], False)
    itself = positions[None, :] == positions[past:, None]  # padding at the left needs a key, or it is NaN
    return Mask((allowed & earlier) | itself, False)


def make_cross_mask(source: AttentionPattern, target: AttentionPattern, length: int, device: torch.device) -> Mask:
    """Which of the encoder's states a decoder's states attend to: all of the source's real tokens.

    Where rows are packed, documents of both sides that have the same number belong together.

    Args:
        source: the encoder's. A ``dense`` pattern with one row for all queries hides keys here as well; one that
            differs by query is the encoder's own affair, and so is ``causal``.
        target: the decoder's.
        length: L, tokens of the source.
        device: where the mask is wanted.

    Raises:
        ZooError: the source is packed and the target is not, or the other way round.
    """
    allowed: Tensor | None = None
    if source.lengths is not None:
        allowed = (torch.arange(length, device=device) < source.lengths[:, None])[:, None, None, :]
    if source.dense is not None and source.dense.shape[-2] == 1:
        dense = source.dense[..., None, :, :]
        allowed = dense if allowed is None else allowed & dense
    if (source.documents is None) != (target.documents is None):
        raise ZooError("packed rows need documents on both sides: the encoder's tokens and the decoder's.")
    if source.documents is not None and target.documents is not None:
        same = (target.documents[:, :, None] == source.documents[:, None, :])[:, None]
        allowed = same if allowed is None else allowed & same
    return Mask(allowed, False)


def _same_document(attention_pattern: AttentionPattern) -> Tensor | None:
    if attention_pattern.documents is None:
        return None
    return attention_pattern.documents[:, :, None] == attention_pattern.documents[:, None, :]


def attended_keys(
    attention_pattern: AttentionPattern,
    positions: Tensor,
    length: int,
    past: int,
    second: bool,
    window: int | None = None,
    memory_documents: Tensor | None = None,
) -> Tensor | None:
    """(1 or B, Q, K) True where a query attends to a key; ``None`` = everywhere.

    All queries attend to what came before the row, unless it is known to be of another document.

    Args:
        attention_pattern: the stream's.
        positions: (1 or B, Q) positions of the queries.
        length: L, tokens of the row.
        past: remembered or cached tokens before it.
        second: the queries are a second stream's, and do not attend to their own position.
        window: hide keys that are so many tokens back or more.
        memory_documents: (B, M) documents of the remembered tokens.
    """
    keys = torch.arange(-past, length, device=positions.device)
    own = positions[..., None]
    found: Tensor | None = None
    if attention_pattern.causal:
        found = keys < own if second else keys <= own
    elif attention_pattern.lengths is not None:
        found = keys < attention_pattern.lengths[:, None, None]
    if window:
        near = own - keys < window
        found = near if found is None else found & near
    for values, ordered in ((attention_pattern.permutation_ranks, True), (attention_pattern.documents, False)):
        if values is not None:
            of_query = (values.gather(1, positions) if second else values)[..., None]
            of_key = values[:, None, :]
            allowed = of_query == of_key if not ordered else of_query > of_key if second else of_query >= of_key
            if memory_documents is None or ordered:
                allowed = functional.pad(allowed, (past, 0), value=True)
            else:
                allowed = torch.cat([of_query == memory_documents[:, None, :], allowed], dim=-1)
            found = allowed if found is None else found & allowed
    if attention_pattern.dense is None:
        return found
    dense = attention_pattern.dense[..., -(past + length) :]  # a cache may hold more than is read
    dense = functional.pad(dense, (past + length - dense.shape[-1], 0), value=True)
    found = dense if found is None else found & dense
    # Padding at the left needs a key.
    return found if second or not attention_pattern.causal else found | (keys == own)
