"""Relative positions, memory of earlier segments, and a second stream of states.

Scores read the distance between query and key instead of positions (Dai et al. 2019, "Transformer-XL", 3.3), so that
states of an earlier segment can be keys and values of this one. A second stream (Yang et al. 2019, "XLNet", 2.3) runs
through the same weights: its rows stand after the first stream's in one tensor, and only the first stream's states and
the memory are keys and values. Shapes: see the legend in ``zoo.inputs``; Q = L + T queries, R distances.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext, in_product_type
from zoo.attention.positions import RelativeScoreInputs, ScoreTerms, shift
from zoo.config import CoreConfig
from zoo.linear import Linear


class RelativeBias(torch.autograd.Function):
    """Scores by distance of both streams, brought to their keys, with penalty and segments: one tensor, written once.

    The same in single steps (:func:`shift`, gather, concatenation, two additions) writes the scores three times over,
    and their gradient more often than that.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        gain: Tensor | None,
        scale: float,
        ordered: int,
        keys: int,
        columns: Tensor | None,
        penalty: Tensor | None,
        differs: Tensor | None,
    ) -> Tensor:
        """(B, H, Q, K) scale * (scores of the keys' distances + gain * differs) + penalty.

        Args:
            ctx: autograd's.
            scores: (B, H, Q, R) by distance.
            gain: (B, H, Q) what a key of another segment gains.
            scale: factor of the scores.
            ordered: rows of the first stream, one after the other; they come first.
            keys: K.
            columns: see :class:`RelativeScoreInputs`, as the next two.
            penalty: the same.
            differs: the same.
        """
        ctx.save_for_backward(columns, differs)
        ctx.sizes, ctx.scale = (scores.shape, ordered, keys), scale
        bias = scores.new_empty(*scores.shape[:3], keys)
        if ordered:
            torch.mul(shift(scores, ordered, keys), scale, out=bias[:, :, :ordered])
        if columns is not None:
            others = scores[:, :, ordered:].gather(3, columns.expand(-1, scores.shape[1], -1, -1))
            torch.mul(others, scale, out=bias[:, :, ordered:])
        if penalty is not None:
            bias += penalty
        if gain is not None and differs is not None:
            bias.addcmul_(gain[..., None], differs, value=scale)
        return bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the scores and of the gain."""
        columns, differs = ctx.saved_tensors
        (shape, ordered, keys), grad = ctx.sizes, grads[0]
        scores = grad.new_zeros(shape)
        if ordered:
            torch.mul(grad[:, :, :ordered], ctx.scale, out=shift(scores, ordered, keys))
        if columns is not None:
            places = columns.expand(-1, shape[1], -1, -1)
            scores[:, :, ordered:].scatter_(3, places, grad[:, :, ordered:] * ctx.scale)
        gain = None
        if ctx.needs_input_grad[1]:
            gain = torch.einsum("bhqk,bqk->bhq", grad, differs[:, 0].to(grad.dtype)) * ctx.scale
        return scores, gain, None, None, None, None, None, None


def bias_in_steps(
    scores: Tensor,
    gain: Tensor | None,
    scale: float,
    ordered: int,
    keys: int,
    columns: Tensor | None,
    penalty: Tensor | None,
    differs: Tensor | None,
) -> Tensor:
    """What :class:`RelativeBias` computes, in single steps for the compiler, which writes them as one."""
    parts = [shift(scores, ordered, keys)] if ordered else []
    if columns is not None:
        parts.append(scores[:, :, ordered:].gather(3, columns.expand(-1, scores.shape[1], -1, -1)))
    bias = torch.cat(parts, dim=2)
    if gain is not None and differs is not None:
        bias = bias + gain[..., None] * differs.to(bias.dtype)
    bias = bias * scale
    return bias if penalty is None else bias + penalty.to(bias.dtype)


class RelativeAttention(Attention):
    """Attention whose score of query i and key j is (q_i + u) k_j + (q_i + v) W r_{i-j} [+ (q_i + s) g_ij]."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        # A bias here would add the same to all keys of a query, which softmax takes out again.
        self.position = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.terms = ScoreTerms(config) if config.untie_r else None

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, Q, W) -> (B, Q, W), and the (B, H, Q, K) probabilities where attention is eager.

        Args:
            hidden: states of both streams, the second one's last.
            shared: what all layers have in common.
            site: number of the place for dropout on the probabilities.
        """
        distances = shared.distances
        assert distances is not None
        terms = self.terms if self.terms is not None else distances.terms
        assert terms is not None
        batch, _, width = hidden.shape
        hidden = in_product_type(hidden)
        asking = shared.of_rows(hidden)
        rows = asking.shape[1]
        sources = hidden[:, : distances.length].contiguous()
        if distances.memory is not None:
            sources = torch.cat([distances.memory.to(sources.dtype), sources], dim=1)
        key = self._split(self.key(sources), self.key_value_heads)
        value = self._split(self.value(sources), self.key_value_heads)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, shared.cache_layer)
            key, value = key[:, :, -distances.keys :], value[:, :, -distances.keys :]
        if self.heads != self.key_value_heads:
            groups = self.heads // self.key_value_heads
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        query = self.query(asking).view(batch, rows, self.heads, width // self.heads)
        content = (query + terms.content).transpose(1, 2)
        bias = self._bias(query, terms, distances)
        probabilities: Tensor | None = None
        if shared.eager_attention or (shared.dropout_keys is not None and self.dropout > 0.0):
            context, probabilities = self._probabilities(content, key, value, bias, shared, site)
        else:
            context = functional.scaled_dot_product_attention(content, key, value, attn_mask=bias, scale=self.scale)
        context = context.transpose(1, 2).reshape(batch, rows, width)
        if distances.attends_to_nothing is not None:
            context = context.masked_fill(distances.attends_to_nothing, 0.0)
        return self.output(context), probabilities

    def _bias(self, query: Tensor, terms: ScoreTerms, distances: RelativeScoreInputs) -> Tensor:
        """(B, H, Q, K) everything in the scaled scores but the product of query and key."""
        encoded = self._split(self.position(distances.encoding), self.heads)
        scores = (query + terms.position).transpose(1, 2) @ encoded.transpose(-1, -2)
        gain: Tensor | None = None
        if distances.differs is not None:
            assert terms.segment is not None
            assert terms.segments is not None
            # What all keys of a query gain alike changes no probability, so only the difference is added.
            other = terms.segments[1] - terms.segments[0]
            gain = ((query * other).sum(-1) + (terms.segment * other).sum(-1)).transpose(1, 2).to(scores.dtype)
        d = distances
        make = bias_in_steps if torch.compiler.is_compiling() else RelativeBias.apply
        bias: Tensor = make(scores, gain, self.scale, d.ordered, d.keys, d.columns, d.penalty, d.differs)
        return bias

    def _probabilities(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities as a tensor, since no fused kernel takes keyed dropout or gives them back."""
        flat, keys = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
        flat = torch.baddbmm(bias.flatten(0, 1), flat, keys, alpha=self.scale)
        probabilities = flat.view(bias.shape).softmax(-1, dtype=torch.float32)
        context = shared.attended(probabilities, value, site, self.dropout)
        if not shared.eager_attention:
            return context, None
        attends_to_nothing = None if shared.distances is None else shared.distances.attends_to_nothing
        if attends_to_nothing is not None:
            probabilities = probabilities.masked_fill(attends_to_nothing[:, None], 0.0)
        return context, probabilities.to(value.dtype)
