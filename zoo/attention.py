"""Attention over structured visibility. Shapes: see the legend in ``zoo.inputs``; G heads of keys and values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import Visibility

if TYPE_CHECKING:
    from zoo.relative import Distances


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

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held."""
        return self.layers[layer_idx][0].shape[2] if layer_idx < len(self.layers) else 0


class Mask(NamedTuple):
    """Visibility in the form that kernels take, made once per forward pass.

    Args:
        allowed: boolean, broadcastable to (B, H, Q, K), True = may look; ``None`` = no tensor needed.
        causal: let the kernel hide later positions (only where Q = K).
    """

    allowed: Tensor | None
    causal: bool


class AttentionContext(NamedTuple):
    """What all layers of one forward pass have in common.

    Args:
        mask: who may see whom.
        dropout_keys: (B,) keys, ``None`` = no dropout.
        rotation: cosines and sines of the positions, each (B or 1, 1, L, D); ``None`` = queries and keys stay.
        cache: earlier keys and values.
        eager_attention: compute the probabilities and give them back, instead of using a fused kernel.
        distances: what relative scores read; they have visibility of their own in it.
        entity_mask: (B, L) where entity vectors stand, in a core that mixes them in.
    """

    mask: Mask
    dropout_keys: Tensor | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    cache: Cache | None = None
    eager_attention: bool = False
    distances: Distances | None = None
    entity_mask: Tensor | None = None

    def normed(self, norm: nn.Module, layer_index: int) -> AttentionContext:
        """With layer ``layer_index``'s memory normalised: it holds what the layer was given, before its first norm."""
        if self.distances is None or not self.distances.memory:
            return self
        memory = list(self.distances.memory)
        memory[layer_index] = norm(memory[layer_index])
        return self._replace(distances=self.distances._replace(memory=tuple(memory)))


def make_mask(visible: Visibility, length: int, device: torch.device, past: int = 0) -> Mask:
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


def _same_document(visible: Visibility) -> Tensor | None:
    if visible.documents is None:
        return None
    return visible.documents[:, :, None] == visible.documents[:, None, :]


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B or 1, 1, L, D), of positions (B or 1, L); pairs are k and k + D/2 (Su et al. 2021)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions.float()[..., None] * (1.0 / theta**steps)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def _rotate(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, L, D) with every pair turned by its position's angle."""
    first, second = states.chunk(2, dim=-1)
    cosines, sines = (part.to(states.dtype) for part in rotation)
    return states * cosines + torch.cat([-second, first], dim=-1) * sines


class Attention(nn.Module):
    """Multi-head self-attention: separate query, key, value and output projections, scores / sqrt(D)."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads, self.key_value_heads = config.num_attention_heads, config.key_value_heads
        self.dropout = config.attention_probs_dropout_prob
        inner = config.key_value_heads * config.head_width
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, inner, bias=bias)
        self.value = nn.Linear(width, inner, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.output.residual_output = True  # type: ignore[assignment]

    def forward(
        self, hidden: Tensor, shared: AttentionContext, layer_index: int, site: int
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, L, W), and the (B, H, L, K) probabilities where they are written out.

        Args:
            hidden: states.
            shared: what all layers have in common.
            layer_index: how many layers were run before; where the cache keeps this one.
            site: number of the place for dropout on the probabilities.
        """
        batch, length, width = hidden.shape
        query = self._split(self.query(hidden), self.heads)
        key = self._split(self.key(hidden), self.key_value_heads)
        value = self._split(self.value(hidden), self.key_value_heads)
        if shared.rotation is not None:
            query, key = _rotate(query, shared.rotation), _rotate(key, shared.rotation)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, layer_index)
        if self.heads != self.key_value_heads:
            groups = self.heads // self.key_value_heads
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        probabilities: Tensor | None = None
        if shared.eager_attention or (shared.dropout_keys is not None and self.dropout > 0.0):
            context, probabilities = self._eager_attention(query, key, value, shared, site)
        else:
            mask = shared.mask
            context = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask.allowed, is_causal=mask.causal
            )
        return self.output(context.transpose(1, 2).reshape(batch, length, width)), probabilities

    def _split(self, states: Tensor, heads: int) -> Tensor:
        """(B, L, heads * D) -> (B, heads, L, D)."""
        batch, length, width = states.shape
        return states.view(batch, length, heads, width // heads).transpose(1, 2)

    def _eager_attention(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities as a tensor, since no fused kernel takes keyed dropout or gives them back."""
        scores = (query * (1.0 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
        hidden = torch.finfo(scores.dtype).min  # exp() of it is 0, and a row that sees nothing stays finite
        if shared.mask.causal:
            length = scores.shape[-1]
            later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, hidden)
        if shared.mask.allowed is not None:
            scores = scores.masked_fill(~shared.mask.allowed, hidden)
        probabilities = scores.softmax(-1, dtype=torch.float32)
        dropped = keyed_dropout(probabilities, shared.dropout_keys, site, self.dropout).to(value.dtype)
        return dropped @ value, probabilities.to(value.dtype) if shared.eager_attention else None
