"""The classes that fine-tuning trains: a class of a text, of a choice or of every token, and an answer's span."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from zoo.hf.base import ZooPreTrainedModel, can_return_tuple, mean_cross_entropy


class ZooForSequenceClassification(ZooPreTrainedModel):
    """The class of a text or pair; regression where there is one label."""

    kinds = ("classification",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, num_labels) logits; ``labels`` are (B,) classes, or (B, num_labels) values or truths of each label."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.sequence_scores(output, attention_mask)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

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
