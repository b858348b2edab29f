"""Sparse Transformer's two patterns (Child et al. 2019, sections 4.2 and 4.3). They are only masks: no time is saved.

The paper gives them to heads in three ways: one part a layer (two entries of ``model.attention_layers`` in turn, with
heads ``near`` and ``far``), all heads attend to both (``merged``), or every second head to each (``split``). It speaks
of causal rows only; in others, distances count in both directions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zoo.attention.pattern import Pattern
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.values import Count

Heads = Literal["merged", "split", "near", "far"]
"""Who attends where: all heads to both parts, every second head to each, or all to one part alone."""


class Strided(Pattern):
    """The last ``stride`` tokens, and every ``stride``-th one before. Only a mask.

    Args:
        config: the core's config.
        stride: tokens of the near part, and between those of the far one.
        heads: which heads attend to which part.
    """

    def __init__(self, config: CoreConfig, stride: Count, heads: Heads = "merged") -> None:
        super().__init__(config)
        self.stride, self.parts = stride, heads

    def sees(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """As :meth:`zoo.attention.pattern.Pattern.sees`."""
        distance = query - key
        return by_heads(distance.abs() <= self.stride, distance % self.stride == 0, self.parts, self.heads)


class Fixed(Pattern):
    """The token's own block of ``stride`` tokens, and the last ``summary`` tokens of every block. Only a mask.

    Args:
        config: the core's config.
        stride: tokens of a block.
        summary: so many at a block's end are seen from everywhere.
        heads: which heads attend to which part.

    Raises:
        ZooError: more tokens at the end than a block has.
    """

    def __init__(self, config: CoreConfig, stride: Count, summary: Count = 1, heads: Heads = "merged") -> None:
        super().__init__(config)
        if summary > stride:
            raise ZooError(f"Fixed: summary = {summary} tokens of a block of stride = {stride}; at most {stride} work.")
        self.stride, self.summary, self.parts = stride, summary, heads

    def sees(self, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """As :meth:`zoo.attention.pattern.Pattern.sees`."""
        block = query.div(self.stride, rounding_mode="floor") == key.div(self.stride, rounding_mode="floor")
        last = (key % self.stride >= self.stride - self.summary).expand_as(block)
        return by_heads(block, last, self.parts, self.heads)


def by_heads(near: Tensor, far: Tensor, parts: Heads, heads: int) -> Tensor:
    """(1 or B, 1 or H, Q, K) of the two parts, each (1 or B, 1, Q, K), what each head attends to."""
    if parts == "merged":
        return near | far
    if parts != "split":
        return near if parts == "near" else far
    second = torch.arange(heads, device=near.device)[:, None, None] % 2 == 1
    return torch.where(second, far, near)
