"""What cores with a decoder have in common, whichever layers they have: when the source is read, and what is carried.

Shapes: see the legend in ``zoo.inputs``; T tokens of the target.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from zoo.attention.context import Cache, CrossCache, EncoderContext, KeyValueCache
from zoo.attention.masks import make_cross_mask
from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput, DecoderInputs

DECODER_SITE = 1 << 23  # the decoder's first place that draws a dropout mask, beyond those of encoders and heads


class GenerationState(NamedTuple):
    """What generation carries from token to token.

    Args:
        keys: keys and values of the decoder's self-attention, or states and cells of its recurrent layers, which are
            extended in place; ``None`` = none are kept.
        cross: keys and values of the source, which the first call computes; ``None`` = none are kept.
        encoder_states: (B, L, W) the encoder's last states; ``None`` = the source has not been read yet.
        encoder_pattern: the source's attention pattern.
    """

    keys: Cache | None = None
    cross: CrossCache | None = None
    encoder_states: Tensor | None = None
    encoder_pattern: AttentionPattern = AttentionPattern()

    @classmethod
    def empty(cls) -> GenerationState:
        """Before the first call."""
        return cls(KeyValueCache(), KeyValueCache())


class TargetReader(Core):
    """A core that encodes a source, and decodes a target that attends to it."""

    @abstractmethod
    def _encode(self, inputs: CoreInputs, shows_states: bool, shows: bool) -> CoreOutput:
        """The encoder's output on inputs without a target."""

    @abstractmethod
    def _decode(
        self, inputs: CoreInputs, encoder: EncoderContext, cache: Cache | None, shows_states: bool, shows: bool
    ) -> CoreOutput:
        """The decoder's part of the output."""

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
            ZooError: as for the encoder's core; a target that is longer than the position table.
        """
        if inputs.decoder is None:
            if state is not None:
                raise ZooError("a state of generation is the decoder's, and no inputs of a decoder are given.")
            return self._encode(inputs, output_hidden_states, output_attentions)
        encoded: CoreOutput | None = None
        if state is None or state.encoder_states is None:
            source = inputs._replace(decoder=None, output_positions=None)  # the decoder reads all of its states
            encoded = self._encode(source, output_hidden_states, output_attentions)
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


def on_both_sides(inputs: CoreInputs, start: int | None) -> CoreInputs:
    """A row as the source and, shifted right, as the target (Lewis et al. 2020, "BART", section 3.1).

    The state at the row's last token has then read the whole row on both sides, so that it can be classified. States
    that are asked for are the decoder's.

    Args:
        inputs: rows with their padding at the right.
        start: what the target starts with.

    Raises:
        ZooError: nobody knows what a target starts with.
    """
    if start is None:
        raise ZooError(
            "this model's config.json does not say which token a target starts with: set decoder_start_token_id there."
        )
    read = inputs.input_ids.roll(1, dims=1)
    read[:, 0] = start
    pattern = AttentionPattern(causal=True, lengths=inputs.attention_pattern.lengths)
    target = DecoderInputs(read, pattern, output_positions=inputs.output_positions)
    return inputs._replace(decoder=target, output_positions=None)


def check_target(config: CoreConfig, length: int) -> None:
    """Raise ZooError if a target of ``length`` tokens, those before it included, has no positions."""
    if length > config.max_length:
        raise ZooError(
            f"a target of {length} tokens is longer than the {config.max_length} positions this core has; "
            "shorten the targets or raise model.max_position_embeddings."
        )
