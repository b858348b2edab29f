"""A label for a pair of segments: next sentence (BERT) and sentence order (ALBERT) alike.

The layout makes the pair and its label; which of the two it is, this objective does not know.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.objective import Encode, LossTerm, Objective, Targets
from pretraining.rows import Rows
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads import SequenceHead
from zoo.vocabulary import Vocabulary


class PairClassification(Objective):
    """Tell pairs in true order (0) from random or swapped ones (1).

    Args:
        weight: factor of the loss.
    """

    needs = frozenset({"pair_label"})
    head: SequenceHead

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: a linear map of the pooled state."""
        if not config.pooler:
            raise ZooError(
                "PairClassification reads the pooled first state, and this core has no pooler: set model.pooler: true, "
                "or leave the objective out."
            )
        self.head = SequenceHead(config, num_labels=2)

    def targets(self, rows: Rows) -> Targets:
        """One label per row."""
        if rows.pair_label is None:
            raise ZooError(
                "PairClassification needs rows with a pair label; pretraining.layouts.SentencePairs makes them."
            )
        return Targets({"labels": torch.from_numpy(rows.pair_label)}, len(rows.pair_label))

    def forward(self, encode: Encode, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the labels."""
        pooled = encode().pooler_output
        assert pooled is not None  # build() asked for a pooler
        labels = batch.tensors["labels"]
        logits = self.head(pooled).float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return LossTerm(
            total=losses.sum(),
            count=batch.count,
            weight=self.weight,
            row_total=losses.detach(),
            row_count=torch.ones_like(losses),
            correct=(logits.detach().argmax(dim=-1) == labels).sum(),
        )
