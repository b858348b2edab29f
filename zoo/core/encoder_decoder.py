"""The encoder-decoder core (Vaswani et al. 2017; specs: Transformer, section 2).

The encoder is the Transformer of ``zoo.core.transformer``. Each of the decoder's layers attends to the tokens before,
then to the encoder's last states. Shapes: see the legend in ``zoo.inputs``; T tokens of the target.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.buckets import RelativeBuckets
from zoo.attention.context import AttentionContext, Cache, EncoderContext
from zoo.attention.cross import CrossAttention
from zoo.attention.masks import Mask
from zoo.attention.positioned import positioned
from zoo.attention.positions import at_positions
from zoo.config import CoreConfig
from zoo.core.embeddings import DecoderEmbeddings
from zoo.core.functions import LayerOutput
from zoo.core.slices import in_slices
from zoo.core.target_reader import DECODER_SITE, TargetReader, check_target
from zoo.core.transformer import SITES_PER_LAYER, Layer, Transformer
from zoo.inputs import CoreInputs, CoreOutput
from zoo.norms import make_norm

_CROSS_SITE = 4  # of a layer's places; those before are of self-attention and the feed-forward part


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
        if self.has_feed_forward:
            hidden, _ = in_slices(self._fed_forward, self.chunk_size, hidden, shared, site, None)
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
        self.layers = nn.ModuleList(DecoderLayer(config, config.first_layer(group)) for group in range(config.groups))
        self.final_norm = make_norm(config, config.hidden_size) if config.norm_position == "pre" else nn.Identity()
        self.buckets = RelativeBuckets(config) if config.position_type == "relative_buckets" else None


class EncoderDecoder(TargetReader, Transformer):
    """An encoder, and a decoder that reads its last states; source and target share the token embedding.

    Args:
        config: the core's config; ``config.decoder`` must be set.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config.decoder_side)

    def _encode(self, inputs: CoreInputs, shows_states: bool, shows: bool) -> CoreOutput:
        return Transformer.forward(self, inputs, None, shows_states, shows)

    def _decode(
        self, inputs: CoreInputs, encoder: EncoderContext, cache: Cache | None, shows_states: bool, shows: bool
    ) -> CoreOutput:
        """The decoder's part of the output."""
        target, config, own = inputs.decoder, self.decoder.config, self.decoder
        assert target is not None
        past, length = 0 if cache is None else cache.get_seq_length(), target.input_ids.shape[1]
        check_target(config, past + length)
        shared = AttentionContext(Mask(None, False), inputs.dropout_keys, cache=cache, encoder=encoder)
        shared = positioned(shared, config, target, own.buckets, past)
        shared = shared._replace(eager_attention=shows or self.eager_attention)
        tokens = functional.embedding(target.input_ids, self.token_embedding)
        hidden = own.embeddings(tokens, target.position_ids, inputs.dropout_keys, DECODER_SITE, past)
        states, attentions, crossed = [hidden], list[Any](), list[Any]()
        wanted = None if shows_states or shows or cache is not None else target.output_positions
        for layer_index in range(config.num_hidden_layers):
            layer = own.layers[config.group_of(layer_index)]
            context = shared.of_layer(layer_index, None)
            if wanted is not None and layer_index == config.num_hidden_layers - 1:
                context = context.of_last_layer(wanted, length)
            site = DECODER_SITE + (layer_index + 1) * SITES_PER_LAYER
            hidden, probabilities, cross = self.call(layer, hidden, context, site, None)
            if shows_states:
                states.append(hidden)
            attentions.append(probabilities)
            crossed.append(cross)
        states[-1] = hidden = own.final_norm(hidden)
        site = DECODER_SITE + (config.num_hidden_layers + 1) * SITES_PER_LAYER
        hidden = context.dropped(hidden, site, config.final_dropout)
        return CoreOutput(
            last_hidden_state=hidden if wanted is None else at_positions(hidden, wanted, length),
            hidden_states=tuple(states) if shows_states else None,
            attentions=tuple(attentions) if shows else None,
            cross_attentions=tuple(crossed) if shows else None,
        )
