"""A core with a classifier on one state of the row."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.core import Core
from zoo.dropout import keyed_dropout
from zoo.heads import SequenceHead, chosen_state, new_sequence_head
from zoo.init import initialise
from zoo.inputs import CoreInputs
from zoo.model_folder import ModelFacts

_SITE = 1 << 20  # number of the classifier's dropout, beyond those of any core


class Classifier(nn.Module):
    """State, dropout, linear; what stands between is :func:`zoo.heads.new_sequence_head`'s to say.

    Args:
        core: the pretrained core; its new rows and heads not included.
        facts: the model folder's; its template and visibility are read.
        labels: names of the classes.
        dropout: probability on the state.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(self, core: Core, facts: ModelFacts, labels: Sequence[str], dropout: float, seed: int) -> None:
        super().__init__()
        self.core = core
        self.pooling = facts.template.pooling
        self.dropout = dropout
        new = new_sequence_head(core.config, self.pooling, facts.visibility)
        self.head = SequenceHead(core.config, len(labels), "classification", labels=list(labels), **new)
        for key, module in (("dense", self.head.dense), ("classifier", self.head.output)):
            initialise(module, core.config, seed, f"finetune.{key}.")
        if core.pooler is not None and not self.head.reads_pooler:
            core.pooler.requires_grad_(False)  # read by nobody here
        start = getattr(getattr(core, "relative", None), "start", None)
        if start is not None:
            start.requires_grad_(False)  # of the second stream, which has no part in this

    def forward(self, inputs: CoreInputs) -> Tensor:
        """(B, L) ids -> (B, classes) logits."""
        output = self.core(inputs)
        state = output.pooler_output if self.head.reads_pooler else self._state(output.last_hidden_state, inputs)
        features = self.head.features(state)
        return self.head.output(keyed_dropout(features, inputs.dropout_keys, _SITE, self.dropout))

    def _state(self, hidden: Tensor, inputs: CoreInputs) -> Tensor:
        """(B, L, W) -> (B, W): the state that the template's pooling names."""
        lengths = inputs.visible.lengths
        return chosen_state(hidden, self.pooling, None if lengths is None else lengths - 1)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {"classifier": self.head}

    def penalty(self) -> float:
        """What the loss gets on top: nothing."""
        return 0.0
