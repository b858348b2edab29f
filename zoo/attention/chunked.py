"""What attention within chunks of a row shares: a chunk of queries reads its own keys and those of chunks beside it.

Source: Kitaev et al. 2020, "Reformer" (specs: Reformer, section 3). Time and memory grow as the length times the chunk.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.context import AttentionContext
from zoo.attention.mixer import TokenMixer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.linear import Linear
from zoo.values import Amount, Count, Probability

HIDDEN = -1e9  # score of a key that is not attended to; a row of such keys alone stays finite


class ChunkedAttention(TokenMixer):
    """Base of attention in chunks: sizes, checks, and the row cut into chunks.

    Args:
        config: the core's config.
        chunk_length: m, tokens of a chunk; a row that is no longer is one chunk.
        num_chunks_before: chunks before its own that a query reads. The row is a ring: before the first chunk stands
            the last one, which rows that attend backwards alone do not see.
        num_chunks_after: chunks after it.
        attention_probs_dropout_prob: dropout on probabilities; ``None`` = the config's.

    Raises:
        ZooError: sizes that do not go together, or positions that scores would have to read.
    """

    caches = False
    projections: ClassVar[int]
    """Matrices between states and heads, the last one included."""

    def __init__(
        self,
        config: CoreConfig,
        chunk_length: Count,
        num_chunks_before: Amount,
        num_chunks_after: Amount,
        attention_probs_dropout_prob: Probability | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if chunk_length > config.max_position_embeddings:
            raise ZooError(
                f"{name}: chunk_length = {chunk_length} is longer than any row (model.max_position_embeddings = "
                f"{config.max_position_embeddings}), so that all tokens would be one chunk: give a shorter one, or "
                "take zoo.attention.Attention."
            )
        if config.position_type in ("rotary", "relative_buckets"):
            raise ZooError(
                f"{name} reads no positions in its scores: model.position_type: axial, learned, sinusoidal or none is "
                f"needed, not {config.position_type}."
            )
        if config.key_value_heads != config.num_attention_heads:
            raise ZooError(f"{name} has as many heads of keys as of queries: leave model.num_key_value_heads out.")
        self.heads, self.head_width = config.num_attention_heads, config.head_width
        self.chunk_length, self.before, self.after = chunk_length, num_chunks_before, num_chunks_after
        own = attention_probs_dropout_prob
        self.dropout = config.attention_probs_dropout_prob if own is None else own
        self.output = Linear(self.heads * self.head_width, config.hidden_size, bias=config.attention_bias)
        self.output.residual_output = True  # type: ignore[assignment]

    @classmethod
    def row_flops(
        cls,
        config: CoreConfig,
        length: int,
        *,
        chunk_length: int = 64,
        num_chunks_before: int = 1,
        num_chunks_after: int = 0,
        num_hashes: int = 1,
        **init_args: Any,
    ) -> int | None:
        """Projections, and in each round two products with the keys of a query; hashing is left out."""
        keys = num_hashes * (num_chunks_before + 1 + num_chunks_after) * chunk_length
        inner = config.num_attention_heads * config.head_width
        attended = length if length <= chunk_length else keys
        return length * inner * (cls.projections * 2 * config.hidden_size + 2 * 2 * attended)

    def projection(self, config: CoreConfig) -> Linear:
        """A matrix from states to all heads."""
        return Linear(config.hidden_size, self.heads * self.head_width, bias=config.attention_bias)

    def split(self, states: Tensor) -> Tensor:
        """(B, L, H * D) -> (B, H, L, D)."""
        return states.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)

    def padding(self, length: int) -> int:
        """How many places a row of ``length`` tokens lacks to a multiple of the chunk; 0 where it is one chunk."""
        return 0 if length <= self.chunk_length else -length % self.chunk_length

    def real_tokens(self, shared: AttentionContext, rows: int, length: int, device: torch.device) -> Tensor | None:
        """(B, L + padding) which places are tokens; ``None`` = all are.

        Raises:
            ZooError: the pattern says more than causal rows and padding.
        """
        allowed, lengths, more = shared.mask.allowed, shared.lengths, self.padding(length)
        if shared.bias is not None or (allowed is not None and (allowed.shape[2] > 1 or shared.causal)):
            raise ZooError(
                f"{type(self).__name__} knows causal rows and padding at the right; it does not read packed documents, "
                "padding at the left of causal rows or any other pattern."
            )
        real: Tensor | None = None
        if allowed is not None:
            real = allowed[:, 0, 0].expand(rows, -1)
        elif lengths is not None:
            real = torch.arange(length, device=device) < lengths[:, None]
        if more:
            real = torch.ones(rows, length, dtype=torch.bool, device=device) if real is None else real
            real = functional.pad(real, (0, more))
        return real

    def beside(self, chunks: Tensor) -> Tensor:
        """(B, H, C, m, ...) -> (B, H, C, (before + 1 + after) * m, ...): each chunk with those beside it.

        Of one chunk there is nothing beside it.
        """
        if chunks.shape[2] == 1 or not (self.before or self.after):
            return chunks
        return torch.cat([chunks.roll(-step, dims=2) for step in range(-self.before, self.after + 1)], dim=3)

    def hide(self, scores: Tensor, asking: Tensor, keys: Tensor, real: Tensor | None, causal: bool) -> Tensor:
        """Scores with :data:`HIDDEN` where a query does not attend to a key.

        Args:
            scores: (B, H, C, m, K).
            asking: (1 or B, 1 or H, C, m) places of the queries in the row.
            keys: (1 or B, 1 or H, C, K) places of the keys.
            real: (B, L) which places are tokens; ``None`` = all are.
            causal: later places are hidden.
        """
        if causal:
            scores = scores.masked_fill(asking[..., None] < keys[..., None, :], HIDDEN)
        if real is None:
            return scores
        index = keys.expand(len(real), *keys.shape[1:])
        seen = real[:, None].expand(-1, index.shape[1], -1).gather(2, index.flatten(2)).view(index.shape)
        return scores.masked_fill(~seen[..., None, :], HIDDEN)

    def table(
        self, probabilities: Tensor, asking: Tensor, keys: Tensor, length: int, shared: AttentionContext
    ) -> Tensor:
        """(B, H, R, L) probabilities of every pair, summed where a key is met several times, for display."""
        batch, heads = probabilities.shape[:2]
        padded = length + self.padding(length)
        places = (asking[..., None] * padded + keys[..., None, :]).expand(probabilities.shape)
        found = probabilities.new_zeros(batch, heads, padded * padded)
        found = found.scatter_add(2, places.flatten(2), probabilities.flatten(2))
        whole = found.view(batch, heads, padded, padded)[:, :, :length, :length]
        return shared.of_rows(whole.transpose(1, 2)).transpose(1, 2)
