"""The encoder-decoder core (Vaswani et al. 2017; specs: Transformer, section 2).

The encoder is the Transformer of ``zoo.core.transformer``. Each of the decoder's layers attends to the tokens before,
then to the encoder's last states. Shapes: see the legend in ``zoo.inputs``; T tokens of the target.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.buckets import RelativeBuckets
from zoo.attention.context import AttentionContext, Cache, CrossCache, EncoderContext, KeyValueCache
from zoo.attention.cross import CrossAttention
from zoo.attention.masks import Mask, make_cross_mask
from zoo.attention.positioned import positioned
from zoo.attention.positions import at_positions
from zoo.config import CoreConfig
from zoo.core.embeddings import DecoderEmbeddings
from zoo.core.functions import LayerOutput, make_norm
from zoo.core.transformer import SITES_PER_LAYER, Layer, Transformer
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput

_SITE = 1 << 20  # number of the decoder's first place that draws a dropout mask, beyond those of any encoder
_CROSS_SITE = 4  # of a layer's places; those before are of self-attention and the feed-forward part


class GenerationState(NamedTuple):
    """What generation carries from token to token.

    Args:
        keys: keys and values of the decoder's self-attention, which are extended in place.
        cross: those of cross-attention, which the first call computes.
        encoder_states: (B, L, W) the encoder's last states; ``None`` = the source has not been read yet.
        encoder_pattern: the source's attention pattern.
    """

    keys: Cache
    cross: CrossCache
    encoder_states: Tensor | None = None
    encoder_pattern: AttentionPattern = AttentionPattern()

    @classmethod
    def empty(cls) -> GenerationState:
        """Before the first call."""
        return cls(KeyValueCache(), KeyValueCache())


class DecoderLayer(Layer):
    """A layer with attention to the encoder's states between self-attention and the feed-forward part."""

    def __init__(self, config: CoreConfig, layer_index: int = 0) -> None:
        super().__init__(config, layer_index)
        self.cross_attention = CrossAttention(config)
        self.cross_norm = make_norm(config, config.hidden_size)

    def forward(
        self, hidden: Tensor, shared: AttentionContext, site: int | Tensor, entities: Tensor | None = None
    ) -> LayerOutput:
        """(B, T, W) -> (B, R, W); probabilities of self-attention and of cross-attention where attention is eager."""
        hidden, probabilities = self._attended(hidden, shared, site)
        asking = self.cross_norm(hidden) if self.pre_norm else hidden
        attended, crossed = self.cross_attention(asking, shared, site + _CROSS_SITE)
        hidden = hidden + shared.dropped(attended, site + _CROSS_SITE + 1, self.dropout)
        if not self.pre_norm:
            hidden = self.cross_norm(hidden)
        hidden, _ = self._fed_forward(hidden, shared, site, None)
        return hidden, probabilities, crossed


class Decoder(nn.Module):
    """The decoder's own weights.

    Args:
        config: the decoder's side of the core's config.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = DecoderEmbeddings(config)
        self.layers = nn.ModuleList(DecoderLayer(config, layer_index) for layer_index in range(config.groups))
        self.final_norm = make_norm(config, config.hidden_size) if config.norm_position == "pre" else nn.Identity()
        self.buckets = RelativeBuckets(config) if config.position_type == "relative_buckets" else None


class EncoderDecoder(Transformer):
    """An encoder, and a decoder that reads its last states; source and target share the token embedding.

    Args:
        config: the core's config; ``config.decoder`` must be set.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config.decoder_side)

    def forward(
        self,
        inputs: CoreInputs,
        state: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """Run the core.

        Args:
            inputs: (B, L) ids of the source, and the decoder's inputs; without these the encoder alone is run, and
                the output is its own.
            state: for generation: what earlier calls left (:class:`GenerationState`), whose caches are extended in
                place. Where it holds the encoder's states the source is not read again.
            output_hidden_states: also return embeddings and every layer's states, of both sides.
            output_attentions: also return every layer's attention probabilities, of both sides and across.

        Raises:
            ZooError: as for the Transformer; a target that is longer than the position table.
        """
        if inputs.decoder is None:
            if state is not None:
                raise ZooError("a state of generation is the decoder's, and no inputs of a decoder are given.")
            return super().forward(inputs, None, output_hidden_states, output_attentions)
        encoded: CoreOutput | None = None
        if state is None or state.encoder_states is None:
            source = inputs._replace(decoder=None, output_positions=None)  # the decoder reads all of its states
            encoded = super().forward(source, None, output_hidden_states, output_attentions)
            states, pattern = encoded.last_hidden_state, inputs.attention_pattern
        else:
            states, pattern = state.encoder_states, state.encoder_pattern
        mask = make_cross_mask(pattern, inputs.decoder.attention_pattern, states.shape[1], states.device)
        encoder = EncoderContext(states, mask, None if state is None else state.cross)
        keys = None if state is None else state.keys
        output = self._decode(inputs, encoder, keys, output_hidden_states, output_attentions)
        if state is not None:
            output = output._replace(state=state._replace(encoder_states=states, encoder_pattern=pattern))
        if encoded is None:
            return output._replace(encoder_last_hidden_state=states)
        return output._replace(
            encoder_last_hidden_state=states,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def _decode(
        self, inputs: CoreInputs, encoder: EncoderContext, cache: Cache | None, shows_states: bool, shows: bool
    ) -> CoreOutput:
        """The decoder's part of the output."""
        target, config, own = inputs.decoder, self.decoder.config, self.decoder
        assert target is not None
        past, length = 0 if cache is None else cache.get_seq_length(), target.input_ids.shape[1]
        self._check_target(past + length)
        shared = AttentionContext(Mask(None, False), inputs.dropout_keys, cache=cache, encoder=encoder)
        shared = positioned(shared, config, target, own.buckets, past)
        shared = shared._replace(eager_attention=shows or self.eager_attention)
        tokens = functional.embedding(target.input_ids, self.token_embedding)
        hidden = own.embeddings(tokens, target.position_ids, inputs.dropout_keys, _SITE, past)
        states, attentions, crossed = [hidden], list[Any](), list[Any]()
        wanted = None if shows_states or shows or cache is not None else target.output_positions
        for layer_index in range(config.num_hidden_layers):
            layer = own.layers[config.group_of(layer_index)]
            context = shared.of_layer(layer_index, None)
            if wanted is not None and layer_index == config.num_hidden_layers - 1:
                context = context.of_last_layer(wanted, length)
            site = _SITE + (layer_index + 1) * SITES_PER_LAYER
            hidden, probabilities, cross = self.call(layer, hidden, context, site, None)
            if shows_states:
                states.append(hidden)
            attentions.append(probabilities)
            crossed.append(cross)
        states[-1] = hidden = own.final_norm(hidden)
        site = _SITE + (config.num_hidden_layers + 1) * SITES_PER_LAYER
        hidden = context.dropped(hidden, site, config.final_dropout)
        return CoreOutput(
            last_hidden_state=hidden if wanted is None else at_positions(hidden, wanted, length),
            hidden_states=tuple(states) if shows_states else None,
            attentions=tuple(attentions) if shows else None,
            cross_attentions=tuple(crossed) if shows else None,
        )

    def _check_target(self, length: int) -> None:
        if length > self.config.max_length:
            raise ZooError(
                f"a target of {length} tokens is longer than the {self.config.max_length} positions this core has; "
                "shorten the targets or raise model.max_position_embeddings."
            )
