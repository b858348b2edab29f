"""The all-attention layer (Sukhbaatar et al. 2019, "Augmenting Self-attention with Persistent Memory")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext
from zoo.attention.masks import Mask
from zoo.attention.pattern import restricted
from zoo.config import CoreConfig
from zoo.initial import normal
from zoo.values import Count


class AllAttention(Attention):
    """Every token also attends to learned vectors, which stand in the feed-forward part's place.

    Made for ``model.feed_forward: false``. So many vectors as ``model.intermediate_size`` have the parameters of a
    feed-forward part without biases. Positions are not theirs.

    Args:
        config: the core's config.
        vectors: learned keys, and as many values, of each head of keys and values.
    """

    def __init__(self, config: CoreConfig, vectors: Count) -> None:
        super().__init__(config)
        shape = (self.key_value_heads, vectors, config.head_width)
        self.persistent_key, self.persistent_value = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.initial = {"persistent_key": normal(config.head_width), "persistent_value": normal(vectors)}

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """With the learned vectors behind the row's; probabilities are of these, too."""
        vectors, places = self.persistent_key.shape[1], torch.arange(key.shape[2], device=query.device)
        asking = places[None, key.shape[2] - query.shape[2] :] if shared.rows is None else shared.rows
        shared = restricted(shared, asking[:, None, :, None], places, None)
        if shared.mask.allowed is not None:
            shared = shared._replace(mask=Mask(functional.pad(shared.mask.allowed, (0, vectors), value=True), False))
        if shared.bias is not None:
            shared = shared._replace(bias=functional.pad(shared.bias, (0, vectors)))
        keys, values = (
            torch.cat([states, learned.to(states.dtype).expand(len(states), -1, -1, -1)], dim=2)
            for states, learned in ((key, self.persistent_key), (value, self.persistent_value))
        )
        return super()._attended(query, keys, values, shared, site)

    @classmethod
    def row_flops(cls, config: CoreConfig, length: int, **init_args: Any) -> int:
        """Forward operations of matrix products on a row of ``length`` tokens."""
        asking, inner = config.num_attention_heads * config.head_width, config.key_value_heads * config.head_width
        projections = 2 * length * config.hidden_size * (2 * asking + 2 * inner)
        return projections + 2 * 2 * length * (length + int(init_args["vectors"])) * asking
