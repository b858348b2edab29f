"""Attention under a mask. Shapes: see the legend in ``zoo.inputs``; R states that ask, G heads of keys and values."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.context import AttentionContext, in_product_type
from zoo.attention.mixer import TokenMixer
from zoo.attention.positions import rotate
from zoo.config import CoreConfig
from zoo.linear import Linear
from zoo.norms import make_head_norm


class Attention(TokenMixer):
    """Multi-head self-attention: separate query, key, value and output projections, scores / sqrt(D)."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads, self.key_value_heads = config.num_attention_heads, config.key_value_heads
        self.dropout, self.cap = config.attention_probs_dropout_prob, config.attn_logit_softcapping
        self.scale = 1.0 / math.sqrt(config.head_width) if config.scale_attention else 1.0
        asking, inner = config.num_attention_heads * config.head_width, config.key_value_heads * config.head_width
        self.query = Linear(width, asking, bias=bias)
        self.key = Linear(width, inner, bias=bias)
        self.value = Linear(width, inner, bias=bias)
        self.output = Linear(asking, width, bias=bias)
        self.output.residual_output = True  # type: ignore[assignment]
        self.query_norm, self.key_norm = make_head_norm(config), make_head_norm(config)

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, R, W), and the (B, H, R, K) probabilities where attention is eager.

        Args:
            hidden: states.
            shared: what all layers have in common.
            site: number of the place for dropout on the probabilities.
        """
        hidden = in_product_type(hidden)
        query = self.query_norm(self._split(self.query(shared.of_rows(hidden)), self.heads))
        key = self.key_norm(self._split(self.key(hidden), self.key_value_heads))
        value = self._split(self.value(hidden), self.key_value_heads)
        if shared.rotation is not None:
            query, key = rotate(query, shared.rotation, shared.rows), rotate(key, shared.rotation)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, shared.cache_layer)
        return self._attended(query, key, value, shared, site)

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(B, R, W) what (B, H, R, D) queries get of (B, G, K, D) keys and values; probabilities as in the call."""
        key, value = self.of_all_heads(key, value)
        probabilities: Tensor | None = None
        if shared.eager_attention or self.cap or (shared.dropout_keys is not None and self.dropout > 0.0):
            context, probabilities = self._eager_attention(query, key, value, shared, site)
        else:
            mask, bias = shared.mask, shared.bias
            allowed = mask.allowed if bias is None else bias.to(query.dtype)
            context = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=allowed, is_causal=mask.causal, scale=self.scale
            )
        return self.output(context.transpose(1, 2).flatten(2)), probabilities

    def of_all_heads(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, K, D) keys and values by query head, of (B, G, K, D) that groups of heads share."""
        groups = self.heads // self.key_value_heads
        if groups == 1:
            return key, value
        return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)

    def _split(self, states: Tensor, heads: int) -> Tensor:
        """(B, L, heads * D) -> (B, heads, L, D)."""
        return states.unflatten(-1, (heads, -1)).transpose(1, 2)

    def _eager_attention(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities as a tensor, since no fused kernel takes keyed dropout or caps, or gives them back."""
        scores = (query * self.scale) @ key.transpose(-1, -2)
        if shared.bias is not None:
            scores = scores + shared.bias
        scores = scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)
        hidden = torch.finfo(scores.dtype).min  # exp() of it is 0, and a row that attends to nothing stays finite
        if shared.mask.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), hidden)
        if shared.mask.allowed is not None:
            scores = scores.masked_fill(~shared.mask.allowed, hidden)
        probabilities = scores.softmax(-1, dtype=torch.float32)
        context = shared.attended(probabilities, value, site, self.dropout)
        return context, probabilities.to(value.dtype) if shared.eager_attention else None
