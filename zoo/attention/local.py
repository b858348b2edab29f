"""Attention within fixed chunks of a row, each with its neighbours (specs: Reformer, 3.8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.chunked import ChunkedAttention
from zoo.attention.context import AttentionContext, in_product_type
from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.values import Amount, Count, Probability


class LocalSelfAttention(ChunkedAttention):
    """Each token attends to its chunk and to the chunks beside it, in the row's own order.

    Args:
        config: the core's config.
        chunk_length: see :class:`zoo.attention.chunked.ChunkedAttention`, as all that follow.
        num_chunks_before: likewise.
        num_chunks_after: likewise.
        attention_probs_dropout_prob: likewise.
    """

    projections = 4

    def __init__(
        self,
        config: CoreConfig,
        chunk_length: Count = 64,
        num_chunks_before: Amount = 1,
        num_chunks_after: Amount = 0,
        attention_probs_dropout_prob: Probability | None = None,
    ) -> None:
        super().__init__(config, chunk_length, num_chunks_before, num_chunks_after, attention_probs_dropout_prob)
        self.query, self.key, self.value = (self.projection(config) for _ in range(3))

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`zoo.attention.attention.Attention.forward`."""
        batch, length, _ = hidden.shape
        real, more = self.real_tokens(shared, batch, length, hidden.device), self.padding(length)
        hidden = in_product_type(hidden)
        size = length if length <= self.chunk_length else self.chunk_length
        query, key, value = (
            functional.pad(self.split(made(hidden)), (0, 0, 0, more)).unflatten(2, (-1, size))
            for made in (self.query, self.key, self.value)
        )
        asking = torch.arange(length + more, device=hidden.device).view(1, 1, -1, size)
        keys = self.beside(asking)
        scores = (query @ self.beside(key).transpose(-1, -2)).float() / math.sqrt(self.head_width)
        probabilities = self.hide(scores, asking, keys, real, shared.causal).softmax(-1)
        dropped = keyed_dropout(probabilities.flatten(2, 3), shared.dropout_keys, site, self.dropout)
        context = dropped.view(probabilities.shape).to(value.dtype) @ self.beside(value)
        context = context.flatten(2, 3)[:, :, :length].transpose(1, 2).flatten(2)
        output = self.output(shared.of_rows(context))
        if not shared.eager_attention:
            return output, None
        return output, self.table(probabilities, asking, keys, length, shared)
