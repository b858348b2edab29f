"""Attention without a product of queries and keys (Tay et al. 2020, "Synthesizer"). The context is still L x L."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext, in_product_type
from zoo.attention.pattern import refuse_block_facts, restricted
from zoo.attention.positions import rotate
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.initial import constant
from zoo.linear import Linear
from zoo.values import Count


class Synthesizer(Attention):
    """Scores that a token's own state gives (dense), that are parameters (random), or both kinds and a product (mixed).

    ``mixed`` is the paper's "random + vanilla": a learned share of each head, by softmax, of random scores and of
    those of queries and keys. The two products of scores are saved; those with the values are not.

    Args:
        config: the core's config.
        kind: where scores come from.
        max_length: longest row; ``None`` = ``model.max_position_embeddings``.

    Raises:
        ZooError: in a call, a row is longer.
    """

    def __init__(
        self,
        config: CoreConfig,
        kind: Literal["dense", "random", "mixed"] = "dense",
        max_length: Count | None = None,
    ) -> None:
        super().__init__(config)
        refuse_block_facts("Synthesizer", config, "attn_logit_softcapping", "qk_norm")
        self.kind, self.longest = kind, max_length or config.max_position_embeddings
        width, inner = config.hidden_size, self.heads * config.head_width
        if kind != "mixed":
            del self.query, self.key
        if kind == "dense":
            self.inner = Linear(width, inner)
            self.scores = nn.Parameter(torch.empty(self.heads, config.head_width, self.longest))
        else:
            self.scores = nn.Parameter(torch.empty(self.heads, self.longest, self.longest))
        if kind == "mixed":
            self.shares = nn.Parameter(torch.empty(2, self.heads))
            self.initial = {"shares": constant(0.0)}

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`zoo.attention.attention.Attention.forward`."""
        hidden = in_product_type(hidden)
        value = self._split(self.value(hidden), self.key_value_heads)
        key = value if self.kind != "mixed" else self._split(self.key(hidden), self.key_value_heads)
        if self.kind == "mixed" and shared.rotation is not None:
            key = rotate(key, shared.rotation)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, shared.cache_layer)
        length = key.shape[2]
        if length > self.longest:
            raise ZooError(f"Synthesizer: a row of {length} tokens, and scores of {self.longest}: set max_length.")
        places = torch.arange(length, device=hidden.device)
        asking = places[None, length - hidden.shape[1] :] if shared.rows is None else shared.rows
        if self.kind == "mixed":
            query = self._split(self.query(shared.of_rows(hidden)), self.heads)
            if shared.rotation is not None:
                query = rotate(query, shared.rotation, shared.rows)
            learned, product = self.shares.softmax(0)[:, :, None, None]
            query, scores = query * product.to(query.dtype), self._random(asking, length) * learned
        else:
            states = shared.of_rows(hidden)
            scores = self._dense(states, length) if self.kind == "dense" else self._random(asking, length)
            query = states.new_zeros(len(states), self.heads, states.shape[1], 1)  # products of nothing
            key = key.new_zeros(len(key), self.key_value_heads, length, 1)
        context = restricted(shared, asking[:, None, :, None], places, None, scores.to(query.dtype))
        return self._attended(query, key, value, context, site)

    def _dense(self, states: Tensor, length: int) -> Tensor:
        """(B, H, R, K) scores that (B, R, W) states give to the places of a row."""
        return self._split(functional.relu(self.inner(states)), self.heads) @ self.scores[:, :, :length]

    def _random(self, asking: Tensor, length: int) -> Tensor:
        """(1 or B, H, R, K) scores of the (1 or B, R) places that ask."""
        return (
            functional.embedding(asking, self.scores.transpose(0, 1).flatten(1))
            .view(*asking.shape, self.heads, self.longest)[..., :length]
            .transpose(1, 2)
        )
