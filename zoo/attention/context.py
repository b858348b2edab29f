"""What all layers of one forward pass share, and the caches that generation extends."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from zoo.attention.masks import Mask
from zoo.attention.positions import RelativeScoreInputs, states_at
from zoo.dropout import dropped_product, keyed_dropout


class Cache(Protocol):
    """Keys and values of earlier calls, so that generation runs every token through the core once.

    The methods are those of transformers' caches, which can be handed in as they are.
    """

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append (B, G, L, D) keys and values of a layer; all of that layer's come back, (B, G, past + L, D)."""
        ...

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held of a layer."""
        ...


class CrossCache(Protocol):
    """Keys and values of the encoder's states, of each decoder layer once."""

    def held(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        """(B, G, L, D) keys and values of a layer; ``None`` = not computed yet."""
        ...

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keep a layer's, and give them back."""
        ...


class EncoderContext(NamedTuple):
    """What cross-attention reads of the encoder.

    Args:
        states: (B, L, W) its last states.
        mask: which of them a decoder's state attends to.
        cache: keys and values of them, which are computed once; ``None`` = anew in each call.
    """

    states: Tensor
    mask: Mask
    cache: CrossCache | None = None


class KeyValueCache:
    """The plain cache: one pair of tensors for each layer that is run."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append, and give back everything of the layer."""
        if layer_idx == len(self.layers):
            self.layers.append((key_states, value_states))
        else:
            old = self.layers[layer_idx]
            self.layers[layer_idx] = (torch.cat([old[0], key_states], 2), torch.cat([old[1], value_states], 2))
        return self.layers[layer_idx]

    def held(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        """A layer's keys and values as they are; ``None`` = there are none."""
        return self.layers[layer_idx] if layer_idx < len(self.layers) else None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held."""
        return self.layers[layer_idx][0].shape[2] if layer_idx < len(self.layers) else 0


def in_product_type(states: Tensor) -> Tensor:
    """States in the type of matrix products, so that several products of the same states convert them once."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


class AttentionContext(NamedTuple):
    """What all layers of one forward pass have in common.

    Args:
        mask: which queries attend to which keys.
        dropout_keys: (B,) keys, ``None`` = no dropout.
        causal: rows attend to earlier tokens only, whichever part of the mask says so.
        rotation: cosines and sines of the positions, each (B or 1, 1, L, D); ``None`` = queries and keys stay.
        positions: (B or 1, L) the positions that they are of.
        cache: earlier keys and values.
        cache_layer: how many layers were run before; where the cache keeps this one.
        eager_attention: compute the probabilities and give them back, instead of using a fused kernel.
        distances: what relative scores read, their own attention pattern included.
        entity_mask: (B, L) where entity vectors stand, in a core that mixes them in.
        rows: (B, R) places of the states that a layer computes, which alone ask; all are keys. ``None`` = all.
        bias: (1 or B, H, Q, K) added to scores, very low where the query does not attend to the key; it stands in
            the mask's place.
        encoder: what a decoder's layers cross-attend to.
        lengths: (B,) tokens of each row, where its end is padding.
        held_buckets: buckets that a hash gave, by the layer's place, to be used again when a layer is run again.
    """

    mask: Mask
    dropout_keys: Tensor | None = None
    causal: bool = False
    rotation: tuple[Tensor, Tensor] | None = None
    positions: Tensor | None = None
    cache: Cache | None = None
    cache_layer: int = 0
    eager_attention: bool = False
    distances: RelativeScoreInputs | None = None
    entity_mask: Tensor | None = None
    rows: Tensor | None = None
    bias: Tensor | None = None
    encoder: EncoderContext | None = None
    lengths: Tensor | None = None
    held_buckets: dict[Any, Tensor] | None = None

    def of_rows(self, states: Tensor) -> Tensor:
        """(B, R, ...) those of the (B, Q, ...) states that are computed."""
        return states if self.rows is None else states_at(states, self.rows)

    def dropped(self, x: Tensor, site: int | Tensor, p: float) -> Tensor:
        """Dropout of (B, R, W) states or (B, H, R, K) probabilities of the states that are computed."""
        return keyed_dropout(x, self.dropout_keys, site, p, self.rows)

    def attended(self, probabilities: Tensor, value: Tensor, site: int | Tensor, p: float) -> Tensor:
        """(B, H, R, D) values by dropped (B, H, R, K) probabilities."""
        return dropped_product(probabilities, value, self.dropout_keys, site, p, self.rows)

    def of_layer(self, layer_index: int, memory: Tensor | None) -> AttentionContext:
        """What layer ``layer_index`` reads, with the (B, M, W) that it remembers.

        The number itself stays out where no cache asks for it, so that a compiled layer serves as every layer.
        """
        shared = self if self.cache is None else self._replace(cache_layer=layer_index)
        if shared.distances is None or memory is None:
            return shared
        return shared._replace(distances=shared.distances._replace(memory=memory))

    def of_last_layer(self, output_positions: Tensor, length: int) -> AttentionContext:
        """What the last layer reads where only some states of the tokens are wanted, and those of a second stream.

        Args:
            output_positions: (B, R); -1 = none, where any state is computed.
            length: L.
        """
        rows = output_positions.clamp(min=0)
        if self.distances is None:
            encoder, bias = self.encoder, self.bias
            if encoder is not None:
                encoder = encoder._replace(mask=encoder.mask.of_rows(rows, length))
            if bias is not None:
                index = rows[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
                bias = bias.expand(len(rows), -1, -1, -1).gather(2, index)
            return self._replace(rows=rows, mask=self.mask.of_rows(rows, length), bias=bias, encoder=encoder)
        distances, rows = self.distances.of_rows(rows)
        return self._replace(rows=rows, distances=distances)

    def normed(self, norm: nn.Module) -> AttentionContext:
        """With the memory normalised: it holds what the layer was given, before its first norm."""
        if self.distances is None or self.distances.memory is None:
            return self
        return self._replace(distances=self.distances._replace(memory=norm(self.distances.memory)))
