"""Attention of a decoder's states to the encoder's (Vaswani et al. 2017, 3.2.3). Shapes: see ``zoo.inputs``."""

from __future__ import annotations

from torch import Tensor

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext, EncoderContext, in_product_type


class CrossAttention(Attention):
    """Queries are the decoder's states, keys and values the encoder's; no position is in the scores."""

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, R, W) states that ask -> (B, R, W), and the (B, H, R, L) probabilities where attention is eager.

        Args:
            hidden: the decoder's states, those that are computed alone.
            shared: what all layers have in common; ``shared.encoder`` is what is attended to.
            site: number of the place for dropout on the probabilities.
        """
        encoder = shared.encoder
        assert encoder is not None
        query = self.query_norm(self._split(self.query(in_product_type(hidden)), self.heads))
        key, value = self._keys_and_values(encoder, shared.cache_layer)
        return self._attended(query, key, value, shared._replace(mask=encoder.mask, bias=None), site)

    def _keys_and_values(self, encoder: EncoderContext, layer: int) -> tuple[Tensor, Tensor]:
        """(B, G, L, D) each; out of the cache where an earlier call computed them."""
        held = None if encoder.cache is None else encoder.cache.held(layer)
        if held is not None:
            return held
        states = in_product_type(encoder.states)
        key = self.key_norm(self._split(self.key(states), self.key_value_heads))
        value = self._split(self.value(states), self.key_value_heads)
        return (key, value) if encoder.cache is None else encoder.cache.update(key, value, layer)
