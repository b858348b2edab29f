"""A label for a pair of segments: next sentence (BERT) and sentence order (ALBERT) alike.

The layout makes the pair and its label; which of the two it is, this objective does not know.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
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
        dense: what the head reads: ``pooler``, the core's pooled first state; or the activation of a dense layer of its
            own (``tanh``) over the state that ``pooling`` names; or ``none``, that state as it is.
        pooling: ``first`` token of a row or its ``last`` one, where no pooler is read.
    """

    needs = frozenset({"pair_label"})
    head: SequenceHead

    def __init__(self, weight: float = 1.0, dense: str = "pooler", pooling: Literal["first", "last"] = "first") -> None:
        super().__init__()
        self.weight, self.dense, self.pooling = weight, dense, pooling

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: a linear map of the pooled or chosen state."""
        if self.dense == "pooler" and not config.pooler:
            raise ZooError(
                "PairClassification reads the pooled first state, and this core has no pooler: set model.pooler: true, "
                "give it a dense layer of its own (dense: tanh), or leave the objective out."
            )
        self.head = SequenceHead(config, num_labels=2, dense=self.dense)

    def targets(self, rows: Rows) -> Targets:
        """One label per row."""
        if rows.pair_label is None:
            raise ZooError(
                "PairClassification needs rows with a pair label; pretraining.layouts.SentencePairs makes them."
            )
        place = rows.lengths - 1 if self.pooling == "last" else np.zeros_like(rows.lengths)
        tensors = {"labels": torch.from_numpy(rows.pair_label), "place": torch.from_numpy(place)}
        return Targets(tensors, len(rows.pair_label))

    def forward(self, encode: Encode, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the labels."""
        output, labels = encode(), batch.tensors["labels"]
        state = output.pooler_output
        if not self.head.reads_pooler:
            state = output.last_hidden_state[torch.arange(len(labels), device=labels.device), batch.tensors["place"]]
        logits = self.head(state).float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return LossTerm(
            total=losses.sum(),
            count=batch.count,
            weight=self.weight,
            row_total=losses.detach(),
            row_count=torch.ones_like(losses),
            correct=(logits.detach().argmax(dim=-1) == labels).sum(),
        )
