"""Attention to what hashes alike: tokens are sorted by hash, and each attends within its chunk of that order.

Source: Kitaev et al. 2020, "Reformer" (specs: Reformer, section 3). Queries are keys: ``k_j = q_j / |q_j|``. Everything
inside a chunk and those beside it is visible, of whatever bucket. Rounds are merged by their partition functions, and a
key met in several rounds counts several times, as in Trax and transformers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.chunked import ChunkedAttention
from zoo.attention.context import AttentionContext, in_product_type
from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout, keyed_normal
from zoo.errors import ZooError
from zoo.values import Amount, Count, Probability

_ITSELF = -1e5  # score of a token for itself: above what is hidden, so that it is chosen where nothing else is left


class LSHSelfAttention(ChunkedAttention):
    """Attention within chunks of the order of hashes; one matrix makes queries and keys.

    In training the rotations are a hash of each row's dropout key and the layer's place: a run repeats and resumes, and
    any number of processes draws the same. Otherwise ``hash_seed`` determines them, and all layers share them.

    Args:
        config: the core's config.
        chunk_length: see :class:`zoo.attention.chunked.ChunkedAttention`.
        num_chunks_before: likewise.
        num_chunks_after: likewise.
        num_hashes: rounds.
        num_buckets: of a round, even; several numbers are multiplied; ``None`` = the largest power of two up to
            2 * (tokens // chunk_length), as two factors where it is large.
        hash_seed: of the rotations outside training.
        attention_probs_dropout_prob: likewise.

    Raises:
        ZooError: an odd number of buckets.
    """

    projections = 3

    def __init__(
        self,
        config: CoreConfig,
        chunk_length: Count = 64,
        num_chunks_before: Amount = 1,
        num_chunks_after: Amount = 0,
        num_hashes: Count = 1,
        num_buckets: int | list[int] | None = None,
        hash_seed: Amount = 0,
        attention_probs_dropout_prob: Probability | None = None,
    ) -> None:
        super().__init__(config, chunk_length, num_chunks_before, num_chunks_after, attention_probs_dropout_prob)
        factors = [num_buckets] if isinstance(num_buckets, int) else num_buckets
        if factors is not None and (not factors or any(number < 2 or number % 2 for number in factors)):
            raise ZooError(
                f"LSHSelfAttention: num_buckets = {num_buckets}; a rotation and its opposite make two buckets, so that "
                "even numbers are needed, such as 2, 64 or [16, 32]."
            )
        if factors is not None and math.prod(factors) >= 2**15:
            raise ZooError(f"LSHSelfAttention: num_buckets = {num_buckets} makes more than {2**15 - 1} buckets.")
        self.factors, self.num_hashes, self.hash_seed = factors, num_hashes, hash_seed
        self.longest = config.max_position_embeddings
        self.query_key, self.value = self.projection(config), self.projection(config)

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`zoo.attention.attention.Attention.forward`."""
        batch, length, _ = hidden.shape
        real, more = self.real_tokens(shared, batch, length, hidden.device), self.padding(length)
        hidden = in_product_type(hidden)
        query, value = (
            functional.pad(self.split(made(hidden)), (0, 0, 0, more)) for made in (self.query_key, self.value)
        )
        if length <= self.chunk_length:  # all attend to all, under the same rules of keys and of the token itself
            order = torch.arange(length, device=hidden.device).expand(batch, self.heads, 1, length)
            size = length
        else:
            order, size = self._order(query.detach(), real, shared, site), self.chunk_length
        context, probabilities, asking, keys = self._in_chunks(query, value, order, size, real, shared, site)
        output = self.output(shared.of_rows(context[:, :, :length].transpose(1, 2).flatten(2)))
        if not shared.eager_attention:
            return output, None
        return output, self.table(probabilities, asking, keys, length, shared)

    def _in_chunks(
        self,
        query: Tensor,
        value: Tensor,
        order: Tensor,
        size: int,
        real: Tensor | None,
        shared: AttentionContext,
        site: int | Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, H, L, D) contexts; (B, H, C, m, K) probabilities, rounds weighted; places of queries and of keys.

        Args:
            query: (B, H, L, D), which are the keys as well.
            value: (B, H, L, D).
            order: (B, H, rounds, L) places of the tokens in each round's order.
            size: m.
            real: (B, L) which places are tokens.
            shared: what all layers have in common.
            site: number of the place for dropout on the probabilities.
        """
        batch, heads, length, width = query.shape
        asking = order.flatten(2).unflatten(2, (-1, size))
        keys = self.beside(asking)
        sorted_query, sorted_value = (_sorted(states, order).unflatten(2, (-1, size)) for states in (query, value))
        scores = sorted_query @ self.beside(_normalised(sorted_query)).transpose(-1, -2)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        scores = self.hide(scores, asking, keys, real, shared.causal)
        scores = scores.masked_fill(asking[..., None] == keys[..., None, :], _ITSELF)
        total = scores.logsumexp(-1, keepdim=True)
        probabilities = (scores - total).exp()
        dropped = keyed_dropout(probabilities.flatten(2, 3), shared.dropout_keys, site, self.dropout)
        context = dropped.view(probabilities.shape).to(value.dtype) @ self.beside(sorted_value)
        rounds = order.shape[2]
        back = order.argsort(-1)  # a permutation's inverse
        context = context.view(batch, heads, rounds, length, width)
        context = context.gather(3, back[..., None].expand(context.shape))
        if rounds == 1:
            return context[:, :, 0], probabilities, asking, keys
        # Stock's formula, not softmax: of a token that sees itself alone the two differ by rounding, 0.998 to 1.
        total = total.view(batch, heads, rounds, length).gather(3, back)
        shares = (total - total.logsumexp(2, keepdim=True)).exp()
        context = (context * shares[..., None].to(context.dtype)).sum(2)
        if shared.eager_attention:
            probabilities = probabilities * shares.gather(3, order).reshape(asking.shape)[..., None]
        return context, probabilities, asking, keys

    def _order(self, query: Tensor, real: Tensor | None, shared: AttentionContext, site: int | Tensor) -> Tensor:
        """(B, H, rounds, L) places of the tokens, sorted by bucket and then by place, of each round."""
        held = None if shared.held_buckets is None else shared.held_buckets.get(site)
        if held is None:
            keys = None if shared.dropout_keys is None else (shared.dropout_keys, site)
            held = self.hashes(query, keys)
            if real is not None:
                held = held.masked_fill(~real[:, None, None], 2**15 - 1)  # a bucket of its own, the last one
            if shared.held_buckets is not None:
                shared.held_buckets[site] = held
        return held.argsort(stable=True, dim=-1)

    def hashes(self, states: Tensor, keys: tuple[Tensor, int | Tensor] | None = None) -> Tensor:
        """(B, H, rounds, L) int16 buckets of (B, H, L, D) states.

        Args:
            states: queries.
            keys: (B,) keys of the rows and the layer's place; ``None`` = by ``hash_seed``.
        """
        factors = self.buckets_of(states.shape[2])
        states = states if states.dtype == torch.float64 else states.float()
        found, start, product = None, 0, 1
        turned = self._rotated(states, sum(factors) // 2, keys)
        for factor in factors:
            part = turned[..., start : start + factor // 2]
            own = torch.cat([part, -part], dim=-1).argmax(-1) * product
            found = own if found is None else found + own
            start, product = start + factor // 2, product * factor
        assert found is not None
        return found.to(torch.int16)

    def _rotated(self, states: Tensor, count: int, keys: tuple[Tensor, int | Tensor] | None) -> Tensor:
        """(B, H, rounds, L, count) states seen along ``count`` random directions of each round."""
        shape = (self.heads, self.head_width, self.num_hashes, count)
        if keys is not None:
            drawn = keyed_normal(keys[0], keys[1], math.prod(shape)).view(-1, *shape)
            return torch.einsum("bhld,bhdrn->bhrln", states, drawn.to(states.dtype))
        generator = torch.Generator().manual_seed(self.hash_seed)
        rotations = torch.randn(shape, generator=generator, dtype=states.dtype).to(states.device)
        return torch.einsum("bhld,hdrn->bhrln", states, rotations)

    def buckets_of(self, length: int) -> list[int]:
        """Factors of the number of buckets for a row of ``length`` tokens, padding to whole chunks included."""
        if self.factors is not None:
            return self.factors
        power = (2 * (length // self.chunk_length)).bit_length() - 1
        if 2**power <= 2 * max(math.isqrt(self.longest // self.chunk_length), self.chunk_length):
            return [2**power]
        return [2 ** (power // 2), 2 ** (power - power // 2)]


def _sorted(states: Tensor, order: Tensor) -> Tensor:
    """(B, H, rounds * L, D) the (B, H, L, D) states in each round's (B, H, rounds, L) order.

    Each round has its own view of the states, so that the backward pass of the gathering adds nothing twice, in an
    order that threads decide.
    """
    shape = (*order.shape, states.shape[-1])
    return states[:, :, None].expand(shape).gather(3, order[..., None].expand(shape)).flatten(2, 3)


def _normalised(query: Tensor) -> Tensor:
    """(..., D) keys: queries of length 1, so that scores need no other scale."""
    wide = query if query.dtype == torch.float64 else query.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) / math.sqrt(query.shape[-1])
    return wide.to(query.dtype)
