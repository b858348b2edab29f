"""The class of an encoder-decoder core: the next token of a target, with generation by transformers' own loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions, Seq2SeqLMOutput

from zoo.core.base import Core
from zoo.core.target_reader import GenerationState
from zoo.errors import ZooError
from zoo.hf.base import ZooPreTrainedModel
from zoo.hf.config import ZooConfig
from zoo.hf.inputs import can_return_tuple, dense_mask, mean_cross_entropy
from zoo.inputs import AttentionPattern, CoreOutput, DecoderInputs
from zoo.model_folder import ModelMetadata, head_configs


class CrossKeys:
    """Keys and values of the source in transformers' cache, as the core asks for them.

    Args:
        past: transformers' cache of both kinds, which knows for each layer whether it has been filled.
    """

    def __init__(self, past: EncoderDecoderCache) -> None:
        self.past = past

    def held(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        """(B, H, L, D) each; ``None`` = not computed yet."""
        if not self.past.is_updated.get(layer_idx):
            return None
        layer = self.past.cross_attention_cache.layers[layer_idx]
        return layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keep a layer's, and give them back."""
        self.past.is_updated[layer_idx] = True
        kept: tuple[Tensor, Tensor] = self.past.cross_attention_cache.update(key_states, value_states, layer_idx)
        return kept


def shifted_right(labels: Tensor, start: int, padding: int | None) -> Tensor:
    """(B, T) what a decoder reads to predict ``labels``; -100 becomes padding, which no later token is asked after."""
    read = labels.new_full(labels.shape, start)
    read[:, 1:] = labels[:, :-1]
    return read.masked_fill(read == -100, start if padding is None else padding)


class ZooForConditionalGeneration(ZooPreTrainedModel, GenerationMixin):
    """The next token of a target that is written under a source."""

    kinds = ("token",)
    decodes = True
    accepts_loss_kwargs = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._state_ids()

    @classmethod
    def around(cls, core: Core, heads: Mapping[str, nn.Module], metadata: ModelMetadata) -> Self:
        """A model of parts that exist already, which stay their owner's: what is being trained can then generate.

        Args:
            core: with a decoder.
            heads: the one over tokens, by its name.
            metadata: of the model folder that they came from.
        """
        made = cls.__new__(cls)
        config = ZooConfig.of(dataclasses.replace(metadata, config=core.config, heads=head_configs(heads)))
        PreTrainedModel.__init__(made, config)
        made._shares_core, made.core, made.heads = True, core, nn.ModuleDict(heads)
        made.post_init()
        made._state_ids()
        return made

    def _state_ids(self) -> None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config, name))

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which reads ``config.json`` anew here; ids that it does not state follow."""
        super().adjust_generation_fn(*args, **kwargs)
        self._state_ids()

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The core alone, which encodes where no target is given."""
        return self.base_model

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(B, T) labels, -100 = not asked -> what the decoder reads; data collators ask for it.

        Raises:
            ZooError: the model does not say what a target starts with.
        """
        start = self.config.decoder_start_token_id
        if start is None:
            raise ZooError("this model does not say which token a target starts with: set decoder_start_token_id.")
        return shifted_right(labels, start, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, T, V) logits, of the last ``logits_to_keep`` positions only where asked.

        Args:
            input_ids: (B, L) the source; may be left out beside ``encoder_outputs``.
            attention_mask: (B, L) 1 = a real token of it.
            decoder_input_ids: (B, T) what the decoder reads; absent = ``labels`` shifted right.
            decoder_attention_mask: (B, T), or (B, past + T) beside a cache.
            encoder_outputs: states of the source out of an earlier call, the first of a tuple.
            past_key_values: transformers' cache of both kinds.
            labels: (B, T) ids that are expected, -100 = not asked; they are not shifted.
            use_cache: keep keys and values; absent = unless there are labels or the model trains.
            logits_to_keep: as in transformers.
            num_items_in_batch: what the sum of losses is divided by instead of their number.
            kwargs: ``token_type_ids``, ``position_ids``, ``decoder_position_ids``, and what to give back.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise ZooError("decoder_input_ids are missing: what the decoder reads, or labels, which say it.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        wants = (self.config.use_cache and labels is None) if use_cache is None else use_cache
        if wants and past_key_values is None and not self.training:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if isinstance(past_key_values, DynamicCache):
            past_key_values = EncoderDecoderCache(past_key_values, DynamicCache())
        positions = kwargs.pop("decoder_position_ids", None)
        pattern = AttentionPattern(causal=True, dense=dense_mask(decoder_attention_mask))
        output = self.encode(
            input_ids,
            attention_mask,
            decoder=DecoderInputs(decoder_input_ids, pattern, positions),
            past_key_values=self._state(encoder_outputs, attention_mask, past_key_values),
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.token_scores(self.head, output.last_hidden_state[:, keep])
        return Seq2SeqLMOutput(
            loss=None if labels is None else mean_cross_entropy(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=past_key_values,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
            cross_attentions=output.cross_attentions,
            **_encoder_side(output, encoder_outputs),
        )

    def _state(self, encoder_outputs: Any, attention_mask: Tensor | None, past: Any) -> GenerationState | None:
        """The core's state out of transformers' arguments; ``None`` = a plain pass."""
        if encoder_outputs is None and past is None:
            return None
        states = None if encoder_outputs is None else encoder_outputs[0]
        keys, cross = (None, None) if past is None else (past.self_attention_cache, CrossKeys(past))
        return GenerationState(keys, cross, states, self._attention_pattern(attention_mask))


def _encoder_side(output: CoreOutput, given: Any) -> dict[str, Any]:
    """What the output says of the encoder, which may have run in an earlier call."""
    if given is None:
        return {
            "encoder_last_hidden_state": output.encoder_last_hidden_state,
            "encoder_hidden_states": output.encoder_hidden_states,
            "encoder_attentions": output.encoder_attentions,
        }
    named = given if isinstance(given, BaseModelOutputWithPoolingAndCrossAttentions) else None
    return {
        "encoder_last_hidden_state": given[0],
        "encoder_hidden_states": getattr(named, "hidden_states", None),
        "encoder_attentions": getattr(named, "attentions", None),
    }
