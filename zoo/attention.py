"""Attention over structured visibility. Shapes: see the legend in ``zoo.inputs``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import Visibility


class Mask(NamedTuple):
    """Visibility in the form that kernels take, made once per forward pass.

    Args:
        allowed: boolean, broadcastable to (B, H, L, L), True = may look; ``None`` = no tensor needed.
        causal: let the kernel hide later positions.
    """

    allowed: Tensor | None
    causal: bool


def make_mask(visible: Visibility, length: int, device: torch.device) -> Mask:
    """The cheapest mask that expresses ``visible`` for rows of ``length`` tokens.

    Causal rows need no lengths: padding stands at the right, where no real token looks.
    """
    if visible.orders is not None:
        raise ZooError("this core has one stream and does not read visibility by factorisation orders.")
    positions = torch.arange(length, device=device)
    allowed: Tensor | None = None
    if visible.lengths is not None and not visible.causal:
        allowed = (positions[None, :] < visible.lengths[:, None])[:, None, None, :]
    for extra in (_same_document(visible), visible.dense):
        if extra is not None:
            allowed = extra[:, None] if allowed is None else allowed & extra[:, None]
    if allowed is not None and visible.causal:
        return Mask(allowed & (positions[:, None] >= positions[None, :])[None, None], False)
    return Mask(allowed, visible.causal)


def _same_document(visible: Visibility) -> Tensor | None:
    if visible.documents is None:
        return None
    return visible.documents[:, :, None] == visible.documents[:, None, :]


class Attention(nn.Module):
    """Multi-head self-attention: separate query, key, value and output projections, scores / sqrt(D)."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.output.residual_output = True  # type: ignore[assignment]

    def forward(self, hidden: Tensor, mask: Mask, keys: Tensor | None, site: int) -> Tensor:
        """(B, L, W) -> (B, L, W).

        Args:
            hidden: states.
            mask: from :func:`make_mask`.
            keys: dropout keys, ``None`` = none.
            site: number of the place for dropout on the probabilities.
        """
        batch, length, width = hidden.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (part(hidden).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        if keys is None or self.dropout == 0.0:
            context = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask.allowed, is_causal=mask.causal
            )
        else:
            context = self._with_dropout(query, key, value, mask, keys, site)
        return self.output(context.transpose(1, 2).reshape(batch, length, width))

    def _with_dropout(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask, keys: Tensor, site: int) -> Tensor:
        """Probabilities written out, since no fused kernel takes keyed dropout."""
        scores = (query * (1.0 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
        if mask.causal:
            length = scores.shape[-1]
            later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        if mask.allowed is not None:
            scores = scores.masked_fill(~mask.allowed, -math.inf)
        probabilities = scores.softmax(-1, dtype=torch.float32)
        return keyed_dropout(probabilities, keys, site, self.dropout).to(value.dtype) @ value
