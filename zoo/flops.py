"""Floating-point operations of the matrix products, counted from the facts alone.

A product of (m, k) and (k, n) is 2mkn operations; the backward pass costs twice the forward one. Checked against
torch's own counter in ``tests/test_loss.py``.
"""

from __future__ import annotations

from zoo.config import CoreConfig


def core_flops(config: CoreConfig, rows: int, length: int) -> int:
    """Forward operations of the core on ``rows`` rows of ``length`` (padded) tokens."""
    tokens, width = rows * length, config.hidden_size
    projections = 2 * width * width + 2 * width * config.key_value_heads * config.head_width
    layer = 2 * tokens * (projections + (3 if config.glu else 2) * width * config.intermediate_size)
    attention = 2 * 2 * rows * length * length * width
    total = config.num_hidden_layers * (layer + attention)
    if config.has_embedding_projection:
        total += 2 * tokens * config.embedding_width * width
    if config.pooler:
        total += 2 * rows * width * width
    return total


def token_head_flops(config: CoreConfig, targets: int, transform: bool) -> int:
    """Forward operations of a token head on ``targets`` positions."""
    assert config.vocab_size is not None
    width = config.embedding_width
    dense = 2 * targets * config.hidden_size * width if transform or width != config.hidden_size else 0
    return dense + 2 * targets * width * config.vocab_size


def training_flops(forward: int) -> int:
    """Forward and backward operations of a training step."""
    return 3 * forward
