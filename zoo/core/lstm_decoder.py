"""An LSTM encoder-decoder with attention: what the Transformer's attention alone took the place of.

The decoder's layers run over the target in one direction. The last one's state asks for the source: score q k / sqrt(W)
with a matrix for each (Luong et al. 2015, "general", section 3.1). Tanh of a matrix over what was found and the state
itself predicts (their equation 5). What was found is not fed back into the next step (their section 3.3), so that all
steps of a layer are one product. Layers start from tanh of a matrix over the encoder's closing states (Bahdanau et al.
2015, appendix A.2.2). Shapes: see the legend in ``zoo.inputs``; T tokens of the target, C of a cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from zoo.attention.context import AttentionContext, Cache, EncoderContext
from zoo.attention.cross import CrossAttention
from zoo.attention.masks import Mask
from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.core.embeddings import DecoderEmbeddings
from zoo.core.lstm import BidirectionalLSTM, RecurrentLayer
from zoo.core.target_reader import DECODER_SITE, TargetReader, check_target
from zoo.core.transformer import SITES_PER_LAYER
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, CoreOutput
from zoo.linear import Linear


class RecurrentDecoder(nn.Module):
    """The decoder's own weights.

    Args:
        config: the decoder's side of the core's config.
        heads: of the attention to the source.
    """

    def __init__(self, config: CoreConfig, heads: int) -> None:
        super().__init__()
        assert config.recurrent is not None
        width = config.hidden_size
        self.config, self.recurrent = config, config.recurrent
        self.embeddings = DecoderEmbeddings(config)
        widths = [config.input_width, *[width] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList(RecurrentLayer(self.recurrent, width, 1, inner) for inner in widths)
        self.start = Linear(width, config.num_hidden_layers * width)
        self.attention = CrossAttention(config.replace(num_attention_heads=heads))
        self.combine = Linear(2 * width, width)

    def run_layer(self, number: int, inputs: Tensor, start: Tensor, cache: Cache | None) -> Tensor:
        """(B, T, n) -> (B, T, W); the cache keeps states and cells of every step, the newest of which go on.

        Args:
            number: of the layer.
            inputs: what it reads.
            start: (B, W) its state before the first token.
            cache: earlier states and cells.
        """
        cell = start.new_zeros(len(start), self.recurrent.cell_size)
        if cache is not None and cache.get_seq_length(number):
            held = cache.update(start[:, None, None][:, :, :0], cell[:, None, None][:, :, :0], number)
            start, cell = held[0][:, 0, -1], held[1][:, 0, -1]
        hiddens, cells = self.layers[number](inputs.transpose(0, 1)[None].contiguous(), start[None], cell[None])
        hiddens, cells = hiddens[0, 1:].transpose(0, 1), cells[0, 1:].transpose(0, 1)
        if cache is not None:
            cache.update(hiddens[:, None], cells[:, None], number)
        return hiddens


class RecurrentEncoderDecoder(TargetReader, BidirectionalLSTM):
    """Two directions of LSTM layers over the source, one over the target, and attention between them.

    Args:
        config: the core's config; ``config.recurrent`` and ``config.decoder`` must be set. Of the decoder's config
            ``num_attention_heads`` is that of the attention to the source; ``None`` = 1.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        assert config.decoder is not None
        self.decoder = RecurrentDecoder(config.decoder_side, config.decoder.num_attention_heads or 1)

    def _encode(self, inputs: CoreInputs, shows_states: bool, shows: bool) -> CoreOutput:
        if inputs.attention_pattern.causal:
            raise ZooError("the encoder reads its source in both directions; its attention pattern cannot be causal.")
        dense = inputs.attention_pattern.dense
        if dense is not None:
            raise ZooError("a recurrent encoder reads rows from end to end: padding stands at the right of a row only.")
        return BidirectionalLSTM.forward(self, inputs, None, shows_states, shows)._replace(state=None)

    def _decode(
        self, inputs: CoreInputs, encoder: EncoderContext, cache: Cache | None, shows_states: bool, shows: bool
    ) -> CoreOutput:
        target, own, keys = inputs.decoder, self.decoder, inputs.dropout_keys
        assert target is not None
        if not target.attention_pattern.causal or target.attention_pattern.dense is not None:
            raise ZooError(
                "a recurrent decoder reads from left to right, and padding stands at the right of a row only."
            )
        past = 0 if cache is None else cache.get_seq_length()
        check_target(own.config, past + target.input_ids.shape[1])
        tokens = functional.embedding(target.input_ids, self.token_embedding)
        states = own.embeddings(tokens, target.position_ids, keys, DECODER_SITE, past)
        every, starts = [states], self._starts(encoder, past)
        for number in range(own.config.num_hidden_layers):
            site = DECODER_SITE + (number + 1) * SITES_PER_LAYER
            states = keyed_dropout(states, keys, site, self.recurrent.dropout)
            arguments: tuple[Any, ...] = (number, states, starts[number], cache)
            if self.recompute_layers and torch.is_grad_enabled():
                output = checkpoint(own.run_layer, *arguments, use_reentrant=False)
            else:
                output = own.run_layer(*arguments)
            states = output + states if self.recurrent.skip_connections and number else output
            every.append(states)
        site = DECODER_SITE + (own.config.num_hidden_layers + 1) * SITES_PER_LAYER
        shared = AttentionContext(Mask(None, False), keys, encoder=encoder, eager_attention=shows)
        found, probabilities = own.attention(states, shared, site)
        states = own.combine(torch.cat([found, states], dim=-1)).tanh()
        states = keyed_dropout(states, keys, site + 1, self.recurrent.dropout)
        return CoreOutput(
            last_hidden_state=states,
            hidden_states=tuple(every) if shows_states else None,
            cross_attentions=(probabilities,) if shows and probabilities is not None else None,
        )

    def _starts(self, encoder: EncoderContext, past: int) -> tuple[Tensor, ...]:
        """(B, W) the state before the first token, of each layer."""
        states, allowed, half = encoder.states, encoder.mask.allowed, self.config.hidden_size // 2
        last = None if allowed is None else allowed[:, 0, 0].sum(-1).expand(len(states)) - 1
        closing = states[:, -1] if last is None else states_at(states, last)
        ends = torch.cat([closing[:, :half], states[:, 0, half:]], dim=-1)
        return self.decoder.start(ends).tanh().chunk(self.decoder.config.num_hidden_layers, dim=-1)
