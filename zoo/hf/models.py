"""The classes: the core alone, those whose heads pretraining trains, and those that fine-tuning trains."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from zoo.core.target_reader import on_both_sides
from zoo.errors import ZooError
from zoo.heads.sequence_head import SequenceHead
from zoo.heads.token_heads import LabelHead, TokenHead
from zoo.hf.base import ZooPreTrainedModel
from zoo.hf.inputs import can_return_tuple, mean_cross_entropy
from zoo.inputs import CoreInputs, DecoderInputs


class ZooModel(ZooPreTrainedModel):
    """The core alone."""

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """States of every position; arguments as in :meth:`ZooPreTrainedModel.encode`."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=output.last_hidden_state,
            pooler_output=output.pooler_output,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            past_key_values=kwargs.get("past_key_values"),
        )


ZooPreTrainedModel.base_class = ZooModel


class ZooForMaskedLM(ZooPreTrainedModel):
    """Hidden tokens from both sides."""

    kinds = ("token",)
    attention_needed = "bidirectional"
    asks_second_stream = True
    accepts_loss_kwargs = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, V) logits, and the loss where ``labels`` (B, L) are given; -100 = not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.token_scores(self.head, output.last_hidden_state)
        loss = None if labels is None else mean_cross_entropy(logits, labels, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForCausalLM(ZooPreTrainedModel, GenerationMixin):
    """The next token, with a cache for generation."""

    kinds = ("token",)
    attention_needed = "causal"
    accepts_loss_kwargs = True

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which reads ``config.json`` anew here; ids that it does not state follow."""
        super().adjust_generation_fn(*args, **kwargs)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config, name))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, V) logits, of the last ``logits_to_keep`` positions only where asked.

        ``labels`` are shifted here; ``shift_labels`` are already, as transformers hands them over where rows are split.
        """
        wants = self.config.use_cache if use_cache is None else use_cache
        if wants and past_key_values is None and not self.training:  # layers recomputed in training would fill it twice
            past_key_values = DynamicCache()
        output = self.encode(
            input_ids, attention_mask, position_ids=position_ids, past_key_values=past_key_values, **kwargs
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.token_scores(self.head, output.last_hidden_state[:, keep])
        loss = None
        if shift_labels is not None:
            loss = mean_cross_entropy(logits, shift_labels, num_items_in_batch)
        elif labels is not None:
            loss = mean_cross_entropy(logits[:, :-1], labels[:, 1:], num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


@dataclasses.dataclass
class ZooForPreTrainingOutput(ModelOutput):
    """What :class:`ZooForPreTraining` gives back.

    Args:
        loss: sum of the losses whose labels were given.
        prediction_logits: (B, L, V) of the token head.
        pair_logits: (B, 2) of the pair head.
        replaced_logits: (B, L) of the replaced-token head.
        hidden_states: every layer's states.
        attentions: every layer's probabilities.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    pair_logits: Tensor | None = None
    replaced_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ZooForPreTraining(ZooPreTrainedModel):
    """The heads that a run trained: the first that predicts tokens, judges pairs, or finds replaced tokens."""

    kinds = ("token", "pair", "replaced")
    asks_second_stream = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        row_labels: Tensor | None = None,
        replaced_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits of every head.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L).
            labels: (B, L) ids for the token head, shifted here for a causal model; -100 = not asked.
            row_labels: (B,) for the pair head.
            replaced_labels: (B, L) 0 or 1 for the replaced-token head; -100 = not asked.
            kwargs: as in :meth:`ZooPreTrainedModel.encode`.
        """
        output = self.encode(input_ids, attention_mask, **kwargs)
        found: dict[str, Tensor] = {}
        for head in self.heads.values():
            if isinstance(head, TokenHead):
                found["prediction_logits"] = self.token_scores(head, output.last_hidden_state)
            elif isinstance(head, SequenceHead):
                found["pair_logits"] = head(output.pooler_output)
            elif isinstance(head, LabelHead):
                found["replaced_logits"] = head(output.last_hidden_state).squeeze(-1)
        asked_for = {"prediction_logits": labels, "pair_logits": row_labels, "replaced_logits": replaced_labels}
        lacking = [name for name, wanted in asked_for.items() if wanted is not None and name not in found]
        if lacking:
            raise ZooError(f"labels were given for {', '.join(lacking)}, and this model's heads make only {[*found]}.")
        losses = []
        if labels is not None:
            shift = self.config.attention == "causal"
            logits = found["prediction_logits"][:, :-1] if shift else found["prediction_logits"]
            losses.append(mean_cross_entropy(logits, labels[:, 1:] if shift else labels))
        if row_labels is not None:
            losses.append(mean_cross_entropy(found["pair_logits"], row_labels))
        if replaced_labels is not None:
            asked = replaced_labels != -100
            logits = found["replaced_logits"][asked].float()
            losses.append(functional.binary_cross_entropy_with_logits(logits, replaced_labels[asked].float()))
        return ZooForPreTrainingOutput(
            loss=torch.stack(losses).sum() if losses else None,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **found,
        )


# ---- a class of a text, of a choice or of every token, and an answer's span -----------------------------------------


class ZooForSequenceClassification(ZooPreTrainedModel):
    """The class of a text or pair; regression where there is one label."""

    kinds = ("classification",)
    decodes = None

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, num_labels) logits; ``labels`` are (B,) classes, or (B, num_labels) values or truths of each label."""
        output = self.encode(input_ids, attention_mask, decoder=self._row_again(input_ids, attention_mask), **kwargs)
        logits = self.sequence_scores(output, attention_mask)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

    def _row_again(self, input_ids: Tensor | None, mask: Tensor | None) -> DecoderInputs | None:
        """The row as the decoder's, where the core has one."""
        if self.core.config.decoder is None or input_ids is None:
            return None
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ZooError("a decoder that reads the row, too, wants padding at the right of it.")
        return on_both_sides(CoreInputs(input_ids), self.config.decoder_start_token_id).decoder

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By the config's ``problem_type``; where it names none, by the number of labels and their type."""
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem = self.config.problem_type or ("regression" if self.config.num_labels == 1 else several)
        if problem == "regression":
            return functional.mse_loss(logits.reshape(labels.shape), labels.float())
        if problem == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, labels.float())
        return mean_cross_entropy(logits, labels)


class ZooForMultipleChoice(ZooPreTrainedModel):
    """The best of several continuations."""

    kinds = ("choice",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, choices, L) ids -> (B, choices) logits; ``labels`` (B,) number of the right one."""
        assert input_ids is not None
        choices = input_ids.shape[1]
        flat = [None if x is None else x.flatten(0, 1) for x in (input_ids, attention_mask, token_type_ids)]
        output = self.encode(flat[0], flat[1], flat[2], **kwargs)
        logits = self.sequence_scores(output, flat[1]).view(-1, choices)
        loss = None if labels is None else mean_cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForTokenClassification(ZooPreTrainedModel):
    """The class of every token."""

    kinds = ("tagging",)
    accepts_loss_kwargs = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, num_labels) logits; ``labels`` (B, L), -100 = not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.head(output.last_hidden_state)
        loss = None if labels is None else mean_cross_entropy(logits, labels, num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForQuestionAnswering(ZooPreTrainedModel):
    """Start and end of an answer."""

    kinds = ("span",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L) logits of start and end; positions (B,) beyond the row are not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        start, end = self.head(output.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            length, losses = start.shape[1], []
            for logits, wanted in ((start, start_positions), (end, end_positions)):
                wanted = wanted.reshape(-1).clamp(0, length)
                losses.append(functional.cross_entropy(logits.float(), wanted, ignore_index=length))
            loss = torch.stack(losses).mean()
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
