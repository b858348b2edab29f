"""The core: ids and an attention pattern in, hidden states out. It knows no objective and no model's name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.attention.buckets import RelativeBuckets
from zoo.attention.build import check_caches, make_attention
from zoo.attention.context import AttentionContext, Cache
from zoo.attention.depth import depth_signal, place_signal
from zoo.attention.masks import Mask
from zoo.attention.memory import Memory, RelativeContext, check_read, last_states
from zoo.attention.positioned import positioned
from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.embeddings import Embeddings
from zoo.core.functions import LayerCall, LayerOutput, activation, call_layer
from zoo.core.fusion import EntityStream, entity_stream
from zoo.core.slices import in_slices
from zoo.inputs import CoreInputs, CoreOutput
from zoo.linear import Linear
from zoo.norms import make_attention_norm, make_norm

SITES_PER_LAYER = 8  # places that draw dropout masks; the embeddings take number 0


class Layer(nn.Module):
    """One set of layer weights: attention and feed-forward, each with residual, norm and dropout.

    Args:
        config: the core's config.
        layer_index: of the first layer that has these weights.
    """

    def __init__(self, config: CoreConfig, layer_index: int = 0) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.dropout, self.inner_dropout = config.hidden_dropout_prob, config.activation_dropout
        self.attention = make_attention(config, layer_index)
        self.attention_norm = make_attention_norm(config, layer_index)
        self.has_feed_forward, self.chunk_size = config.feed_forward, config.chunk_size_feed_forward
        if not config.feed_forward:
            return
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = activation(config.hidden_act)
        self.gate = Linear(width, inner, bias=bias) if config.glu else None
        self.intermediate = Linear(width, inner, bias=bias)
        self.output = Linear(inner, width, bias=bias)
        self.output.residual_output = True  # type: ignore[assignment]
        self.output_norm = make_norm(config, config.hidden_size)
        mixes = config.fusion is not None and config.fusion.kind_of(layer_index) != "plain"
        self.fusion = EntityStream(config, layer_index) if mixes else None

    def forward(
        self, hidden: Tensor, shared: AttentionContext, site: int | Tensor, entities: Tensor | None = None
    ) -> LayerOutput:
        """(B, L, W) -> (B, R, W); attention probabilities where attention is eager; entities where there are any.

        Args:
            hidden: states.
            shared: what all layers have in common, and what this one remembers.
            site: number or () tensor: its first place that draws a dropout mask; shared weights run under several.
            entities: (B, L, entity width) states of the entities beside the tokens.
        """
        hidden, probabilities = self._attended(hidden, shared, site)
        if self.has_feed_forward:
            hidden, entities = in_slices(self._fed_forward, self.chunk_size, hidden, shared, site, entities)
        return hidden, probabilities, entities

    def _attended(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, R, W) after self-attention, with its probabilities."""
        sublayer_input = hidden
        if self.pre_norm:
            sublayer_input, shared = self.attention_norm(hidden), shared.normed(self.attention_norm)
        attended, probabilities = self.attention(sublayer_input, shared, site)
        hidden = shared.of_rows(hidden) + shared.dropped(attended, site + 1, self.dropout)
        return (hidden if self.pre_norm else self.attention_norm(hidden)), probabilities

    def _fed_forward(
        self, hidden: Tensor, shared: AttentionContext, site: int | Tensor, entities: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, R, W) -> (B, R, W) after the feed-forward part, with the entities."""
        sublayer_input, added = self.output_norm(hidden) if self.pre_norm else hidden, None
        if self.fusion is not None and entities is not None:
            entities, added = self.fusion.join(entities, shared, site)
            added = shared.of_rows(added)
        inner = shared.dropped(self._inner(sublayer_input, added), site + 3, self.inner_dropout)
        if self.fusion is not None and entities is not None:
            entities = self.fusion.leave(entities, inner, shared.dropout_keys, site)
        hidden = hidden + shared.dropped(self.output(inner), site + 2, self.dropout)
        return (hidden if self.pre_norm else self.output_norm(hidden)), entities

    def _inner(self, hidden: Tensor, added: Tensor | None) -> Tensor:
        """(B, R, intermediate width): what stands between the two matrices of the feed-forward part."""
        inner = self.intermediate(hidden) if added is None else self.intermediate(hidden) + added
        return self.activation(inner) if self.gate is None else self.activation(self.gate(hidden)) * inner


class Transformer(Core):
    """The Transformer core (Vaswani et al. 2017; Devlin et al. 2018; Lan et al. 2019 for shared layers).

    Args:
        config: the core's config.

    Attributes:
        eager_attention: never use a fused attention kernel.
    """

    layer_type: type[Layer] = Layer

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_layers = False
        self.eager_attention = False
        self.run_layer: LayerCall = call_layer
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(self.layer_type(config, config.first_layer(i)) for i in range(config.groups))
        self.final_norm = make_norm(config, config.output_width) if config.norm_position == "pre" else nn.Identity()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.pooler else None
        self.relative = RelativeContext(config) if config.position_type == "relative" else None
        self.buckets = RelativeBuckets(config) if config.position_type == "relative_buckets" else None

    def forward(
        self,
        inputs: CoreInputs,
        state: Cache | Memory | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """Run the core.

        Args:
            inputs: (B, L) ids with their attention pattern and what else the config asks for.
            state: what stands before these tokens and is attended to: a cache of keys and values, which is
                extended in place; or, with ``mem_len``, the dictionary of tensors that an earlier call gave back.
                A cache serves generation: of it, too, the last ``mem_len`` tokens are read.
            output_hidden_states: also return the embeddings and all layers' states, the last after the final norm.
            output_attentions: also return every layer's attention probabilities.

        Raises:
            ZooError: the rows are longer than the position table, or a field is given that this core does not read.
        """
        memory = state if isinstance(state, dict) else None
        hidden, shared = self._begin(inputs, state, output_attentions or self.eager_attention)
        length, remembered = inputs.input_ids.shape[1], {}
        remembers = self.relative if self.config.mem_len and shared.cache is None else None
        if remembers is not None and inputs.attention_pattern.documents is not None:
            remembered["documents"] = remembers.remember_documents(inputs.attention_pattern.documents, memory or None)
        entities, mask = (None, None) if self.config.fusion is None else entity_stream(inputs, self.config.fusion)
        shared = shared._replace(entity_mask=mask)
        attentions: list[Any] = []
        signal = place_signal(inputs.position_ids, shared, hidden) if self.config.depth_signal else None
        states, shown = [hidden], output_hidden_states or output_attentions
        wanted = None if shown or shared.cache is not None else inputs.output_positions
        for layer_index in range(self.config.num_hidden_layers):
            name, layer = f"memory_{layer_index}", self.layers[self.config.group_of(layer_index)]
            if remembers is not None:
                remembered[name] = remembers.remember(hidden[:, :length], layer_index, memory or None)
            own = shared.of_layer(layer_index, memory[name] if memory else None)
            if wanted is not None and layer_index == self.config.num_hidden_layers - 1:
                own = own.of_last_layer(wanted, length)
            site = (layer_index + 1) * SITES_PER_LAYER
            hidden = hidden if signal is None else hidden + signal + depth_signal(layer_index, hidden)
            hidden, probabilities, entities = self.call(layer, hidden, own, site, entities)
            if output_hidden_states:
                states.append(hidden)
            attentions.append(probabilities)
        states[-1] = hidden = self.final_norm(hidden)
        site = (self.config.num_hidden_layers + 1) * SITES_PER_LAYER
        first, second = last_states(own.dropped(hidden, site, self.config.final_dropout), inputs, wanted)
        return CoreOutput(
            last_hidden_state=first,
            pooler_output=None if self.pooler is None else self.pooler(first[:, 0]).tanh(),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            query_states=second,
            state=shared.cache if shared.cache is not None else remembered or None,
        )

    def _begin(
        self, inputs: CoreInputs, state: Cache | Memory | None, eager_attention: bool
    ) -> tuple[Tensor, AttentionContext]:
        """The first layer's input, and what all layers have in common."""
        memory, cache = (state, None) if isinstance(state, dict) else (None, state)
        past = 0 if cache is None else cache.get_seq_length()
        check_read(self.config, inputs, past, memory)
        if cache is not None:
            check_caches(layer.attention for layer in self.layers)
        shared = AttentionContext(Mask(None, False), inputs.dropout_keys, cache=cache, eager_attention=eager_attention)
        hidden = self.embeddings(inputs, past)
        if self.relative is None:
            return hidden, positioned(shared, self.config, inputs, self.buckets, past)
        past = min(past, self.config.mem_len or past)
        if memory:
            past = memory["memory_0"].shape[1] if "memory_0" in memory else 0
        hidden, distances = self.relative(inputs, hidden, memory or None, past)
        return hidden, shared._replace(distances=distances)
