"""A core with a classifier on its pooled state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.core import Transformer
from zoo.dropout import keyed_dropout
from zoo.init import initialise
from zoo.inputs import CoreInputs
from zoo.vocabulary import Template

_SITE = 1 << 20  # number of the classifier's dropout, beyond those of any core


class Classifier(nn.Module):
    """Pooled state, dropout, linear (specs: BERT, section 5).

    The pooled state is the core's own pooler's where it has one and reads the first token; else a new dense
    layer with tanh over the state that the template's ``pooling`` names.

    Args:
        core: the pretrained core; its new rows and heads not included.
        template: says which state is read.
        num_labels: classes.
        dropout: probability on the pooled state.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(self, core: Transformer, template: Template, num_labels: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.core = core
        self.pooling = template.pooling
        self.dropout = dropout
        width = core.config.hidden_size
        self.dense = None if core.pooler is not None and self.pooling == "first" else nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_labels)
        for name in ("dense", "classifier"):
            module = getattr(self, name)
            if module is not None:
                initialise(module, core.config, seed, f"finetune.{name}.")
        if self.dense is not None and core.pooler is not None:
            core.pooler.requires_grad_(False)  # read by nobody here

    def forward(self, inputs: CoreInputs) -> Tensor:
        """(B, L) ids -> (B, num_labels) logits."""
        output = self.core(inputs)
        if self.dense is None:
            pooled = output.pooler_output
        else:
            pooled = self.dense(self._state(output.last_hidden_state, inputs)).tanh()
        return self.classifier(keyed_dropout(pooled, inputs.dropout_keys, _SITE, self.dropout))

    def _state(self, hidden: Tensor, inputs: CoreInputs) -> Tensor:
        """(B, L, W) -> (B, W): the first token's state, or the last real one's."""
        if self.pooling == "first":
            return hidden[:, 0]
        lengths = inputs.visible.lengths
        if lengths is None:
            return hidden[:, -1]
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths.to(hidden.device) - 1]
