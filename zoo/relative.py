"""Relative positions, memory of earlier segments, and a second stream of states.

Scores read the distance between query and key instead of positions (Dai et al. 2019, "Transformer-XL", 3.3), so that
states of an earlier segment can be keys and values of this one. A second stream (Yang et al. 2019, "XLNet", 2.3) runs
through the same weights: its rows stand after the first stream's in one tensor, and only the first stream's states and
the memory are keys and values. Shapes: see the legend in ``zoo.inputs``; Q = L + T queries, R distances.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention import Attention, AttentionContext
from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, SecondStream, Visibility

_HIDDEN = -3e4  # added to hidden scores: finite in every type, and exp() of it is 0 beside any score that is not
_DOCUMENTS = "documents"
_ENCODING_SITE, _START_SITE = 1, 2  # places that draw dropout masks; the embeddings take number 0

Memory = dict[str, Tensor]
"""``memory_0``, ``memory_1``, ...: (B, M, W) the input of each layer at earlier tokens, detached; and, where documents
do not see each other, ``documents``: (B, M) number of the document that each of these tokens belongs to."""


class ScoreTerms(nn.Module):
    """Learned vectors that stand in for a query in the relative scores.

    Attributes:
        content: (H, D) u, which meets keys.
        position: (H, D) v, which meets distances.
        segment: (H, D) s, which meets segments, where scores read them.
        segments: (2, H, D) keys of "the same segment" and "another one".
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        shape = (config.num_attention_heads, config.head_width)
        self.content = nn.Parameter(torch.zeros(shape))
        self.position = nn.Parameter(torch.zeros(shape))
        self.segment = nn.Parameter(torch.zeros(shape)) if config.relative_segments else None
        self.segments = nn.Parameter(torch.zeros(2, *shape)) if config.relative_segments else None


class Distances(NamedTuple):
    """What the relative scores of all layers have in common in one forward pass.

    Args:
        encoding: (1 or B, R, W) sines and cosines of the distances K, K - 1, ..., far to near, then to the right.
        length: L, tokens of the first stream.
        keys: K, remembered tokens and the first stream's.
        terms: the vectors that all layers share, where they do.
        columns: (B, 1, T, K) place of each key's distance in ``encoding``, for the second stream.
        penalty: (1 or B, 1, Q, K) added to scores: 0, or very low where nothing may be seen.
        attends_to_nothing: (B, Q, 1) queries of the second stream that may see no key at all.
        differs: (B, 1, Q, K) 1 where query and key are of different segments, else 0.
        memory: what each layer remembers.
    """

    encoding: Tensor
    length: int
    keys: int
    terms: ScoreTerms | None = None
    columns: Tensor | None = None
    penalty: Tensor | None = None
    attends_to_nothing: Tensor | None = None
    differs: Tensor | None = None
    memory: tuple[Tensor, ...] = ()


def encode_distances(distances: Tensor, width: int) -> Tensor:
    """(..., R) distances -> (..., R, width): sines of all frequencies, then their cosines."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=distances.device) / width
    angles = distances.float()[..., None] * (1.0 / 10000.0**steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def shift(scores: Tensor, length: int, keys: int) -> Tensor:
    """Scores by distance to scores by key, as a view: the linear trick of Dai et al. 2019, appendix B.

    Row i of ``scores`` answers the distances K, K - 1, ... in turn; its key j is M + i - j tokens back, K = M + L, and
    so stands in column L - i + j. Written one row after the other, with the first L numbers left out and rows one
    shorter, it stands in column j.

    Args:
        scores: (B, H, Q, R), R > K.
        length: L; rows from L on are left out.
        keys: K.
    """
    return scores[:, :, :length].flatten(2)[..., length:].unflatten(2, (length, -1))[..., :keys]


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
        length: int,
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
            length: L, rows of the first stream.
            keys: K.
            columns: see :class:`Distances`, as the next two.
            penalty: the same.
            differs: the same.
        """
        ctx.save_for_backward(columns, differs)
        ctx.sizes, ctx.scale = (scores.shape, length, keys), scale
        bias = scores.new_empty(*scores.shape[:3], keys)
        torch.mul(shift(scores, length, keys), scale, out=bias[:, :, :length])
        if columns is not None:
            second = scores[:, :, length:].gather(3, columns.expand(-1, scores.shape[1], -1, -1))
            torch.mul(second, scale, out=bias[:, :, length:])
        if penalty is not None:
            bias += penalty
        if gain is not None and differs is not None:
            bias.addcmul_(gain[..., None], differs, value=scale)
        return bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the scores and of the gain."""
        columns, differs = ctx.saved_tensors
        (shape, length, keys), grad = ctx.sizes, grads[0]
        scores = grad.new_zeros(shape)
        torch.mul(grad[:, :, :length], ctx.scale, out=shift(scores, length, keys))
        if columns is not None:
            places = columns.expand(-1, shape[1], -1, -1)
            scores[:, :, length:].scatter_(3, places, grad[:, :, length:] * ctx.scale)
        gain = None
        if ctx.needs_input_grad[1]:
            gain = torch.einsum("bhqk,bqk->bhq", grad, differs[:, 0].to(grad.dtype)) * ctx.scale
        return scores, gain, None, None, None, None, None, None


class RelativeAttention(Attention):
    """Attention whose score of query i and key j is (q_i + u) k_j + (q_i + v) W r_{i-j} [+ (q_i + s) g_ij]."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.scale = 1.0 / math.sqrt(config.head_width)
        # A bias here would add the same to all keys of a query, which softmax takes out again.
        self.position = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.terms = ScoreTerms(config) if config.untie_r else None

    def forward(
        self, hidden: Tensor, shared: AttentionContext, layer_index: int, site: int
    ) -> tuple[Tensor, Tensor | None]:
        """(B, Q, W) -> (B, Q, W), and the (B, H, Q, K) probabilities where they are written out.

        Args:
            hidden: states of both streams, the second one's last.
            shared: what all layers have in common.
            layer_index: how many layers were run before; where memory and cache keep this one.
            site: number of the place for dropout on the probabilities.
        """
        distances = shared.distances
        assert distances is not None
        terms = self.terms if self.terms is not None else distances.terms
        assert terms is not None
        batch, rows, width = hidden.shape
        sources = hidden[:, : distances.length].contiguous()
        if distances.memory:
            sources = torch.cat([distances.memory[layer_index].to(sources.dtype), sources], dim=1)
        key = self._split(self.key(sources), self.key_value_heads)
        value = self._split(self.value(sources), self.key_value_heads)
        if shared.cache is not None:
            key, value = shared.cache.update(key, value, layer_index)
            key, value = key[:, :, -distances.keys :], value[:, :, -distances.keys :]
        if self.heads != self.key_value_heads:
            groups = self.heads // self.key_value_heads
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        query = self.query(hidden).view(batch, rows, self.heads, width // self.heads)
        asking = (query + terms.content).transpose(1, 2)
        bias = self._bias(query, terms, distances)
        probabilities: Tensor | None = None
        if shared.eager_attention or (shared.dropout_keys is not None and self.dropout > 0.0):
            context, probabilities = self._probabilities(asking, key, value, bias, shared, site)
        else:
            context = functional.scaled_dot_product_attention(asking, key, value, attn_mask=bias, scale=self.scale)
        context = context.transpose(1, 2).reshape(batch, rows, width)
        if distances.attends_to_nothing is not None:
            context = context.masked_fill(distances.attends_to_nothing, 0.0)
        return self.output(context), probabilities

    def _bias(self, query: Tensor, terms: ScoreTerms, distances: Distances) -> Tensor:
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
        bias: Tensor = RelativeBias.apply(scores, gain, self.scale, d.length, d.keys, d.columns, d.penalty, d.differs)
        return bias

    def _probabilities(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, shared: AttentionContext, site: int
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities as a tensor, since no fused kernel takes keyed dropout or gives them back."""
        flat, keys = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
        flat = torch.baddbmm(bias.flatten(0, 1), flat, keys, alpha=self.scale)
        probabilities = flat.view(bias.shape).softmax(-1, dtype=torch.float32)
        dropped = keyed_dropout(probabilities, shared.dropout_keys, site, self.dropout).to(value.dtype)
        if not shared.eager_attention:
            return dropped @ value, None
        attends_to_nothing = None if shared.distances is None else shared.distances.attends_to_nothing
        if attends_to_nothing is not None:
            probabilities = probabilities.masked_fill(attends_to_nothing[:, None], 0.0)
        return dropped @ value, probabilities.to(value.dtype)


def visible_keys(
    visible: Visibility,
    positions: Tensor,
    length: int,
    past: int,
    second: bool,
    window: int | None = None,
    remembered: Tensor | None = None,
) -> Tensor | None:
    """(1 or B, Q, K) True where a query may look; ``None`` = everywhere.

    What came before the row is seen by all, unless it is known to be of another document.

    Args:
        visible: the stream's visibility.
        positions: (1 or B, Q) positions of the queries.
        length: L, tokens of the row.
        past: remembered or cached tokens before it.
        second: the queries are a second stream's, and do not see their own position.
        window: hide keys that are so many tokens back or more.
        remembered: (B, M) documents of the remembered tokens.
    """
    keys = torch.arange(-past, length, device=positions.device)
    own = positions[..., None]
    found: Tensor | None = None
    if visible.causal:
        found = keys < own if second else keys <= own
    elif visible.lengths is not None:
        found = keys < visible.lengths[:, None, None]
    if window:
        near = own - keys < window
        found = near if found is None else found & near
    for values, ordered in ((visible.orders, True), (visible.documents, False)):
        if values is not None:
            asking = (values.gather(1, positions) if second else values)[..., None]
            asked = values[:, None, :]
            sees = asking == asked if not ordered else asking > asked if second else asking >= asked
            if remembered is None or ordered:
                sees = functional.pad(sees, (past, 0), value=True)
            else:
                sees = torch.cat([asking == remembered[:, None, :], sees], dim=-1)
            found = sees if found is None else found & sees
    if visible.dense is None:
        return found
    dense = visible.dense[..., -(past + length) :]  # a cache may hold more than is looked at
    dense = functional.pad(dense, (past + length - dense.shape[-1], 0), value=True)
    found = dense if found is None else found & dense
    return found if second or not visible.causal else found | (keys == own)  # padding at the left must see something


class Relative(nn.Module):
    """What the layers share where scores are relative: distances, memory, the second stream and its start.

    Args:
        config: the core's facts.

    Attributes:
        start: (1, 1, W) where every state of the second stream starts.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.terms = None if config.untie_r else ScoreTerms(config)
        self.start = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.query_stream else None

    def forward(self, inputs: CoreInputs, hidden: Tensor, memory: Memory | None, past: int) -> tuple[Tensor, Distances]:
        """The (B, Q, W) states that the first layer reads, and what all layers share.

        Args:
            inputs: the core's inputs.
            hidden: (B, L, W) embeddings.
            memory: what was remembered.
            past: remembered or cached tokens.
        """
        length, keys, query = hidden.shape[1], past + hidden.shape[1], inputs.query
        places = torch.arange(length, device=hidden.device)[None]
        window = self.config.mem_len if self.config.same_length else None
        documents = None if memory is None else self._documents(memory, inputs.visible)
        seen = visible_keys(inputs.visible, places, length, past, False, window, documents)
        columns = attends_to_nothing = None
        if query is not None:
            hidden = torch.cat([hidden, self._start(query, inputs.dropout_keys).to(hidden.dtype)], dim=1)
            columns = (length - query.positions)[:, None, :, None] + torch.arange(keys, device=hidden.device)
            also = visible_keys(query.visible, query.positions, length, past, True, window, documents)
            seen, attends_to_nothing = _both(seen, also, query.positions.shape, length, keys)
        return hidden, Distances(
            encoding=self._encoding(inputs, hidden, past, length),
            length=length,
            keys=keys,
            terms=self.terms,
            columns=columns,
            penalty=None if seen is None else _penalty(seen, hidden.dtype)[:, None],
            attends_to_nothing=attends_to_nothing,
            differs=self._differs(inputs, past, hidden.dtype),
            memory=() if memory is None else self._remembered(memory, hidden),
        )

    def _start(self, query: SecondStream, keys: Tensor | None) -> Tensor:
        states = query.hidden_states
        if states is None:
            if self.start is None:
                raise ZooError("this core has no start vector for a second stream (model.query_stream: true).")
            states = self.start.expand(*query.positions.shape, -1)
        return keyed_dropout(states, keys, _START_SITE, self.config.hidden_dropout_prob)

    def _encoding(self, inputs: CoreInputs, hidden: Tensor, past: int, length: int) -> Tensor:
        """(1 or B, R, W): a row of its own where rows differ in direction, or in what dropout leaves."""
        one_sided = inputs.visible.causal and inputs.query is None
        nearest = -1 if one_sided else -length
        distances = torch.arange(past + length, nearest, -1, device=hidden.device)[None]
        if self.config.clamp_len > 0:
            distances = distances.clamp(-self.config.clamp_len, self.config.clamp_len)
        if inputs.reversed is not None:
            distances = torch.where(inputs.reversed[:, None], -distances, distances)
        encoding = encode_distances(distances, self.config.hidden_size).to(hidden.dtype)
        dropout = self.config.hidden_dropout_prob
        if inputs.dropout_keys is None or dropout == 0.0:
            return encoding
        return keyed_dropout(encoding.expand(len(hidden), -1, -1), inputs.dropout_keys, _ENCODING_SITE, dropout)

    def _differs(self, inputs: CoreInputs, past: int, dtype: torch.dtype) -> Tensor | None:
        types = inputs.token_type_ids
        if types is None or not self.config.relative_segments:
            return None
        asking = types if inputs.query is None else torch.cat([types, types.gather(1, inputs.query.positions)], dim=1)
        asked = functional.pad(types, (past, 0))  # what is remembered counts as segment 0
        return (asking[:, :, None] != asked[:, None, :])[:, None].to(dtype)

    def _remembered(self, memory: Memory, hidden: Tensor) -> tuple[Tensor, ...]:
        names = [f"memory_{layer_index}" for layer_index in range(self.config.num_hidden_layers)]
        if set(memory) - {_DOCUMENTS} != set(names):
            raise ZooError(f"this core remembers {names[0]} to {names[-1]}; the state given has {sorted(memory)[:4]}.")
        wrong = [n for n in names if memory[n].shape != (len(hidden), memory[names[0]].shape[1], hidden.shape[2])]
        if wrong:
            raise ZooError(
                f"{wrong[0]} has shape {tuple(memory[wrong[0]].shape)}; {len(hidden)} rows of width {hidden.shape[2]}, "
                "the same length in every layer, are needed: rows of a state follow those of the batch."
            )
        return tuple(memory[name] for name in names)

    def _documents(self, memory: Memory, visible: Visibility) -> Tensor | None:
        """(B, M) documents of what is remembered."""
        if (visible.documents is None) != (_DOCUMENTS not in memory):
            raise ZooError(
                "the rows tell their documents apart and what is remembered does not, or the other way round: rows of "
                "one run have to come from one layout."
            )
        return memory.get(_DOCUMENTS)

    def remember_documents(self, documents: Tensor, memory: Memory | None) -> Tensor:
        """(B, M') document of each token remembered after this segment."""
        return self._last(documents, None if memory is None else memory[_DOCUMENTS])

    @torch.no_grad()
    def remember(self, hidden: Tensor, layer_index: int, memory: Memory | None) -> Tensor:
        """(B, M', W) what layer ``layer_index`` remembers after this segment: the last ``mem_len`` of old and new.

        Args:
            hidden: (B, Q, W) its input; rows are taken to be full, padding would be remembered too.
            layer_index: the layer.
            memory: what was remembered so far.
        """
        return self._last(hidden, None if memory is None else memory[f"memory_{layer_index}"])

    def _last(self, new: Tensor, old: Tensor | None) -> Tensor:
        limit = self.config.mem_len or 0
        new = new[:, : self.config.reuse_len or new.shape[1]][:, -limit:]
        if old is None:
            return new.clone()
        spare = limit - new.shape[1]
        return torch.cat([old[:, old.shape[1] - min(spare, old.shape[1]) :].to(new.dtype), new], dim=1)


def _both(
    first: Tensor | None, second: Tensor | None, shape: torch.Size, length: int, keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """Visibility of both streams' queries as one (1 or B, Q, K), and the (B, Q, 1) queries that see nothing."""
    if first is None and second is None:
        return None, None
    device = (first if first is not None else second).device  # type: ignore[union-attr]
    everything = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    first = (everything if first is None else first).expand(shape[0], length, keys)
    second = (everything if second is None else second).expand(shape[0], shape[1], keys)
    attends_to_nothing = functional.pad(~second.any(-1, keepdim=True), (0, 0, length, 0))
    if device.type == "cpu" and not torch.compiler.is_compiling() and not attends_to_nothing.any():
        return torch.cat([first, second], dim=1), None  # on a GPU the question would cost a wait
    return torch.cat([first, second], dim=1), attends_to_nothing


def _penalty(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, _HIDDEN)
