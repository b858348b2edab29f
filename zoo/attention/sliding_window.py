"""Attention to what is near: a window around each token, and some global tokens at the row's beginning.

Sources: Child et al. 2019 and Beltagy et al. 2020 (a window with global tokens), Warner et al. 2024 (a window in every
layer but each third, with a rotary base of its own). Long rows are computed in blocks, so that time and memory grow as
the length times the window; short ones, and whatever needs probabilities, by a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.context import AttentionContext
from zoo.attention.pattern import Pattern
from zoo.attention.positions import rotary_angles
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.values import Amount, Count, Positive

_BLOCKS = 6  # from so many blocks of a row on, computing them alone takes less time than a mask does
_SMALLEST_BLOCK = 32


class SlidingWindow(Pattern):
    """Each token attends to those at most ``window // 2`` places away; of causal rows, to the last ``window`` tokens.

    Args:
        config: the core's config.
        window: tokens in sight, the token itself included where attention is causal.
        global_tokens: so many tokens at the row's beginning attend to all, and all attend to them.
        rope_theta: base of the rotary angles of these layers; ``None`` = the config's.

    Raises:
        ZooError: a rotary base without rotary positions; more global tokens than a row may have.
    """

    def __init__(
        self, config: CoreConfig, window: Count, global_tokens: Amount = 0, rope_theta: Positive | None = None
    ) -> None:
        super().__init__(config)
        if rope_theta is not None and config.position_type != "rotary":
            raise ZooError(
                f"rope_theta = {rope_theta} of a SlidingWindow is for model.position_type: rotary, not "
                f"{config.position_type}."
            )
        if global_tokens > config.max_length:
            raise ZooError(
                f"SlidingWindow: global_tokens = {global_tokens}, and rows have at most {config.max_length} tokens: "
                "fewer are needed."
            )
        self.window, self.global_tokens = window, global_tokens
        self.rope_theta, self.head_width = rope_theta, config.head_width

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`zoo.attention.attention.Attention.forward`."""
        if self.rope_theta is not None and shared.positions is not None:
            shared = shared._replace(rotation=rotary_angles(shared.positions, self.head_width, self.rope_theta))
        return super().forward(hidden, shared, site)

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """In blocks where that takes less time, otherwise by a mask."""
        length, reach = key.shape[2], self._reach(shared.causal)
        only_padding = shared.mask.allowed is None or shared.mask.allowed.shape[2] == 1  # is hidden, if anything
        whole = shared.rows is None and shared.bias is None and query.shape[2] == length and only_padding
        eager = shared.eager_attention or self.cap or (shared.dropout_keys is not None and self.dropout > 0.0)
        if whole and not eager and self.global_tokens == 0 and length >= _BLOCKS * max(reach, _SMALLEST_BLOCK):
            context = self._in_blocks(query, *self.of_all_heads(key, value), shared)
            return self.output(context.transpose(1, 2).flatten(2)), None
        return super()._attended(query, key, value, shared, site)

    def _reach(self, causal: bool) -> int:
        """How many places away the farthest token in sight is."""
        return self.window - 1 if causal else self.window // 2

    def sees(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """What is near, and the global tokens."""
        near = (query - key).abs() <= self._reach(causal)
        if self.global_tokens:
            near = near | (key < self.global_tokens) | (query < self.global_tokens)
        return near

    def _in_blocks(self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext) -> Tensor:
        """(B, H, L, D) what queries get, each block of them from its own keys and the neighbouring blocks' alone."""
        (batch, heads, length, width), reach = query.shape, self._reach(shared.causal)
        block = max(reach, _SMALLEST_BLOCK)
        count, after = -(-length // block), 0 if shared.causal else block
        tail = count * block - length
        ahead = (0, 0, block, tail + after)
        queries = functional.pad(query, (0, 0, 0, tail)).view(batch, heads, count, block, width)
        keys, values = (
            functional.pad(states, ahead).unfold(2, 2 * block + after, block).transpose(3, 4) for states in (key, value)
        )
        places = torch.arange(count * block, device=query.device).view(count, block)
        near = places[:, :1, None] - block + torch.arange(2 * block + after, device=query.device)
        distance = places[:, :, None] - near
        seen = (near >= 0) & (near < length) & (distance.abs() <= reach)
        seen = (seen & (distance >= 0) if shared.causal else seen)[None, :, None]
        if shared.mask.allowed is not None:
            real = functional.pad(shared.mask.allowed[:, 0, 0], (block, tail + after)).unfold(
                1, 2 * block + after, block
            )
            seen = seen & real[:, :, None, None]
        seen = seen | (distance == 0)[None, :, None]
        folded = [states.transpose(1, 2).flatten(0, 1) for states in (queries, keys, values)]
        context = functional.scaled_dot_product_attention(
            folded[0],
            folded[1],
            folded[2],
            attn_mask=seen.expand(batch, -1, -1, -1, -1).flatten(0, 1),
            scale=self.scale,
        )
        return context.view(batch, count, heads, block, width).transpose(1, 2).flatten(2, 3)[:, :, :length]
