"""A core under a task's head: trained with it, or frozen, its layers mixed for a task network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.config import FeatureSettings
from finetune.inputs.features import FeatureBatch, TextFeatures
from zoo.attention.positions import states_at
from zoo.core.base import Core
from zoo.core.init import initialise
from zoo.dropout import keyed_dropout
from zoo.heads.scalar_mix import FrozenCore
from zoo.heads.sequence_head import SequenceHead, new_sequence_head, pooled_state
from zoo.heads.task_network import TaskNetwork
from zoo.inputs import CoreInputs
from zoo.model_folder import ModelMetadata

_SITE = 1 << 20  # number of the classifier's dropout, beyond those of any core


class Classifier(nn.Module):
    """State, dropout, linear; what stands between is :func:`zoo.heads.sequence_head.new_sequence_head`'s to say.

    Args:
        core: the pretrained core; its new rows and heads not included.
        metadata: the model folder's; its template and attention pattern are read.
        labels: names of the classes.
        dropout: probability on the state.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(self, core: Core, metadata: ModelMetadata, labels: Sequence[str], dropout: float, seed: int) -> None:
        super().__init__()
        self.core = core
        self.pooling = metadata.template.pooling
        self.dropout = dropout
        new = new_sequence_head(core.config, self.pooling, metadata.attention)
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
        output = self.core(inputs._replace(output_positions=self._read(inputs)))
        state = output.pooler_output if self.head.reads_pooler else self._state(output.last_hidden_state, inputs)
        features = self.head.features(state)
        return self.head.output(keyed_dropout(features, inputs.dropout_keys, _SITE, self.dropout))

    def _read(self, inputs: CoreInputs) -> Tensor | None:
        """(B, 1) position of the only state that is read; ``None`` = there are two."""
        lengths, first = inputs.attention_pattern.lengths, torch.zeros_like(inputs.input_ids[:, :1])
        if self.head.reads_pooler or self.pooling == "first":
            return first
        if self.pooling != "last":
            return None
        return first + inputs.input_ids.shape[1] - 1 if lengths is None else lengths[:, None] - 1

    def _state(self, hidden: Tensor, inputs: CoreInputs) -> Tensor:
        """(B, L, W) -> (B, W): the state that the template's pooling names."""
        lengths = inputs.attention_pattern.lengths
        return pooled_state(hidden, self.pooling, None if lengths is None else lengths - 1)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {"classifier": self.head}

    def penalty(self) -> float:
        """What the loss gets on top: nothing."""
        return 0.0


class FeatureClassifier(nn.Module):
    """A frozen core, mixes of its layers, and a task network on them.

    Args:
        core: the pretrained core.
        labels: names of the classes.
        settings: of the features.
        dropout: inside the network.
        pair: whether a row has two texts.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(
        self, core: Core, labels: Sequence[str], settings: FeatureSettings, dropout: float, pair: bool, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.dropout = settings, dropout
        self.features = FrozenCore(core, settings.mixes, settings.layer_norm, settings.dropout)
        self.network = TaskNetwork(
            core.config, len(labels), "features", settings.mixes, settings.hidden_size, pair, list(labels)
        )
        initialise(self.network, core.config, seed, "finetune.network.")

    @property
    def core(self) -> Core:
        """The core."""
        return self.features.core

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {"mixes": self.features.mixes, "classifier": self.network}

    def forward(self, batch: FeatureBatch) -> Tensor:
        """Rows -> (B, classes) logits."""
        mixed = []
        for number, text in enumerate(batch.texts):
            layers = self.read(text) if text.layers is None else text.layers
            real = torch.arange(layers.shape[1], device=layers.device) < text.lengths.to(layers.device)[:, None]
            mixed.append(self.features.mix(layers.unbind(2), real, batch.dropout_keys, number))
        return self.network(mixed, [text.lengths for text in batch.texts], batch.dropout_keys, self.dropout)

    def read(self, text: TextFeatures) -> Tensor:
        """(B, L, J, W) layers of a text's own tokens, from the core."""
        assert text.inputs is not None
        assert text.start is not None
        states = torch.stack(self.features.layers(text.inputs), dim=2)
        columns = torch.arange(int(text.lengths.max()), device=states.device)
        at = (text.start[:, None] + columns).clamp(max=states.shape[1] - 1)
        return states_at(states, at)

    def penalty(self) -> Tensor:
        """0-d: what the loss gets on top."""
        return self.settings.regulariser * self.features.regulariser()
