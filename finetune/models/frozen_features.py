"""A task network on mixes of a frozen core's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.config import FeatureSettings
from finetune.inputs.features import FeatureBatch, TextFeatures
from zoo.core import Core
from zoo.init import initialise
from zoo.mix import FrozenFeatures, TaskNetwork


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
        self.features = FrozenFeatures(core, settings.mixes, settings.layer_norm, settings.dropout)
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
        return states[torch.arange(len(at), device=at.device)[:, None], at]

    def penalty(self) -> Tensor:
        """0-d: what the loss gets on top."""
        return self.settings.regulariser * self.features.regulariser()
