"""Memory of earlier segments, and where a second stream of states starts.

States of an earlier segment are keys and values of this one (Dai et al. 2019, "Transformer-XL", 3.2). Shapes: see the
legend in ``zoo.inputs``; Q = L + T queries, R distances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.masks import attended_keys
from zoo.attention.positions import RelativeScoreInputs, ScoreTerms, at_positions, encode_distances
from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream

_HIDDEN = -3e4  # added to hidden scores: finite in every type, and exp() of it is 0 beside any score that is not
_DOCUMENTS = "documents"
_ENCODING_SITE, _START_SITE = 1, 2  # places that draw dropout masks; the embeddings take number 0

Memory = dict[str, Tensor]
"""``memory_0``, ``memory_1``, ...: (B, M, W) the input of each layer at earlier tokens, detached; and, where documents
do not attend to each other, ``documents``: (B, M) number of the document that each of these tokens belongs to."""


def check_read(config: CoreConfig, inputs: CoreInputs, past: int, memory: Memory | None) -> None:
    """Raise ZooError if a stack of attention layers cannot read all that it is given.

    Args:
        config: the core's config.
        inputs: its inputs.
        past: tokens before the row in a cache.
        memory: what was remembered.
    """
    length = past + inputs.input_ids.shape[1]
    if length > config.max_length:
        raise ZooError(
            f"a row of {length} tokens is longer than the {config.max_length} positions this core has; "
            "shorten data.sequence_length (or the fine-tuning max_length) or raise model.max_position_embeddings."
        )
    unread = ["decoder"]
    unread += [] if config.position_type == "relative" else ["query", "reversed"]
    unread += [] if config.fusion is not None else ["entity_ids", "entity_vectors"]
    given = [name for name in unread if getattr(inputs, name) is not None]
    if given:
        raise ZooError(f"this core does not read {', '.join(given)}.")
    if config.fusion is not None and past:
        raise ZooError("a core with entities (model.fusion) reads whole rows and does not go on from a cache.")
    if memory and not config.mem_len:
        raise ZooError("this core remembers nothing (model.mem_len) and does not read a memory.")


def last_states(hidden: Tensor, inputs: CoreInputs, wanted: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Last states: (B, L, W) of the tokens, of which all or (B, R) wanted ones were computed; the second stream's."""
    length = inputs.input_ids.shape[1]
    width = length if wanted is None else wanted.shape[1]
    first, second = (hidden, None) if inputs.query is None else (hidden[:, :width], hidden[:, width:])
    return (first if wanted is None else at_positions(first, wanted, length)), second


class RelativeContext(nn.Module):
    """What the layers share where scores are relative: distances, memory, the second stream and its start.

    Args:
        config: the core's config.

    Attributes:
        start: (1, 1, W) where every state of the second stream starts.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.terms = None if config.untie_r else ScoreTerms(config)
        self.start = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.query_stream else None

    def forward(
        self, inputs: CoreInputs, hidden: Tensor, memory: Memory | None, past: int
    ) -> tuple[Tensor, RelativeScoreInputs]:
        """The (B, Q, W) states that the first layer reads, and what all layers share.

        Args:
            inputs: the core's inputs.
            hidden: (B, L, W) embeddings.
            memory: what was remembered.
            past: remembered or cached tokens.
        """
        if memory is not None:
            self._check(memory, hidden)
        length, keys, query = hidden.shape[1], past + hidden.shape[1], inputs.query
        places = torch.arange(length, device=hidden.device)[None]
        window = self.config.mem_len if self.config.same_length else None
        documents = None if memory is None else self._documents(memory, inputs.attention_pattern)
        attended = attended_keys(inputs.attention_pattern, places, length, past, False, window, documents)
        columns = attends_to_nothing = None
        if query is not None:
            hidden = torch.cat([hidden, self._start(query, inputs.dropout_keys).to(hidden.dtype)], dim=1)
            columns = (length - query.positions)[:, None, :, None] + torch.arange(keys, device=hidden.device)
            also = attended_keys(query.attention_pattern, query.positions, length, past, True, window, documents)
            attended, attends_to_nothing = both_streams(attended, also, query.positions.shape, length, keys)
        return hidden, RelativeScoreInputs(
            encoding=self._encoding(inputs, hidden, past, length),
            length=length,
            ordered=length,
            keys=keys,
            terms=self.terms,
            columns=columns,
            penalty=None if attended is None else _penalty(attended, hidden.dtype)[:, None],
            attends_to_nothing=attends_to_nothing,
            differs=self._differs(inputs, past, hidden.dtype),
        )

    def _start(self, query: QueryStream, keys: Tensor | None) -> Tensor:
        states = query.hidden_states
        if states is None:
            if self.start is None:
                raise ZooError("this core has no start vector for a second stream (model.query_stream: true).")
            states = self.start.expand(*query.positions.shape, -1)
        return keyed_dropout(states, keys, _START_SITE, self.config.hidden_dropout_prob)

    def _encoding(self, inputs: CoreInputs, hidden: Tensor, past: int, length: int) -> Tensor:
        """(1 or B, R, W): a row of its own where rows differ in direction, or in what dropout leaves."""
        one_sided = inputs.attention_pattern.causal and inputs.query is None
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
        of_query = types if inputs.query is None else torch.cat([types, types.gather(1, inputs.query.positions)], dim=1)
        of_key = functional.pad(types, (past, 0))  # what is remembered counts as segment 0
        return (of_query[:, :, None] != of_key[:, None, :])[:, None].to(dtype)

    def _check(self, memory: Memory, hidden: Tensor) -> None:
        names = [f"memory_{layer_index}" for layer_index in range(self.config.num_hidden_layers)]
        if set(memory) - {_DOCUMENTS} != set(names):
            raise ZooError(f"this core remembers {names[0]} to {names[-1]}; the state given has {sorted(memory)[:4]}.")
        wrong = [n for n in names if memory[n].shape != (len(hidden), memory[names[0]].shape[1], hidden.shape[2])]
        if wrong:
            raise ZooError(
                f"{wrong[0]} has shape {tuple(memory[wrong[0]].shape)}; {len(hidden)} rows of width {hidden.shape[2]}, "
                "the same length in every layer, are needed: rows of a state follow those of the batch."
            )

    def _documents(self, memory: Memory, attention_pattern: AttentionPattern) -> Tensor | None:
        """(B, M) documents of what is remembered."""
        if (attention_pattern.documents is None) != (_DOCUMENTS not in memory):
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


def both_streams(
    first: Tensor | None, second: Tensor | None, shape: torch.Size, length: int, keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """The keys that both streams' queries attend to, (1 or B, Q, K), and the (B, Q, 1) queries that attend to none."""
    if first is None and second is None:
        return None, None
    device = (first if first is not None else second).device  # type: ignore[union-attr]
    everything = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    first = (everything if first is None else first).expand(shape[0], length, keys)
    second = (everything if second is None else second).expand(shape[0], shape[1], keys)
    attends_to_nothing = functional.pad(~second.any(-1, keepdim=True), (0, 0, length, 0))
    if device.type == "cpu" and not torch.compiler.is_compiling() and not attends_to_nothing.any():
        return torch.cat([first, second], dim=1), None  # on a GPU the test would cost a wait
    return torch.cat([first, second], dim=1), attends_to_nothing


def _penalty(attended: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(attended.shape, dtype=dtype, device=attended.device).masked_fill(~attended, _HIDDEN)
