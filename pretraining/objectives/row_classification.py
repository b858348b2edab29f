"""A class for a whole row: next sentence (BERT), sentence order (ALBERT), and ERNIE 2.0's sentence-level tasks alike.

The layout makes the row and its label; which task that is, these objectives do not know.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads.sequence_head import SequenceHead
from zoo.values import Count, NotNegative
from zoo.vocabulary import Vocabulary


class RowClassification(Objective):
    """Tell which of several classes a row belongs to; the layout's ``row_labels`` says which.

    One linear map of the pooled state, as in PaddlePaddle/ERNIE, model/ernie.py::get_task_output.

    Args:
        num_labels: classes.
        labels: their names, which the model folder keeps; absent = they have none.
        weight: factor of the loss.
        dense: what the head reads: ``pooler``, the core's pooled first state; or the activation of a dense layer of its
            own (``tanh``) over the state that ``pooling`` names; or ``none``, that state as it is.
        pooling: ``first`` token of a row or its ``last`` one, where no pooler is read.

    Raises:
        ZooError: fewer than two classes, or another number of names.
    """

    required_fields = frozenset({"row_labels"})
    kind = "row_class"
    head: SequenceHead

    def __init__(
        self,
        num_labels: Count,
        labels: list[str] | None = None,
        weight: NotNegative = 1.0,
        dense: str = "pooler",
        pooling: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__()
        if num_labels < 2:
            raise ZooError(f"{type(self).__name__}: num_labels is {num_labels}; two classes are the least.")
        if labels is not None and len(labels) != num_labels:
            raise ZooError(f"{type(self).__name__}: {len(labels)} names in labels for num_labels = {num_labels}.")
        self.num_labels, self.labels = num_labels, labels
        self.weight, self.dense, self.pooling = weight, dense, pooling

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: a linear map of the pooled or chosen state."""
        if self.dense == "pooler" and not config.pooler:
            raise ZooError(
                f"{type(self).__name__} reads the pooled first state, and this core has no pooler: set model.pooler: "
                "true, give it a dense layer of its own (dense: tanh), or leave the objective out."
            )
        self.head = SequenceHead(config, self.num_labels, self.kind, self.dense, labels=self.labels)

    def targets(self, rows: Examples) -> Targets:
        """One label per row."""
        if rows.row_labels is None:
            raise ZooError(
                f"{type(self).__name__} needs rows with a label; pretraining.layouts.SentencePairs and the layouts of "
                "pretraining.layouts.labelled_pairs make them."
            )
        if (highest := int(rows.row_labels.max(initial=0))) >= self.num_labels:
            raise ZooError(
                f"{type(self).__name__}: a row's label is {highest}, which {self.num_labels} classes have not; set "
                f"num_labels to what the layout makes, at least {highest + 1}."
            )
        place = rows.lengths - 1 if self.pooling == "last" else np.zeros_like(rows.lengths)
        tensors = {"labels": torch.from_numpy(rows.row_labels), "place": torch.from_numpy(place)}
        read = 0 if self.dense == "pooler" else place
        return Targets(tensors, len(rows.row_labels), np.arange(len(place)) * rows.shape[1] + read)

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the labels."""
        output, labels = run_core(), batch.tensors["labels"]
        state = output.pooler_output
        if not self.head.reads_pooler:
            state = states_at(output.last_hidden_state, batch.tensors["place"])
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

    def describe(self, rows: Examples) -> dict[str, Any]:
        """The row's class by name, or how often each class occurs."""
        if rows.row_labels is None or self.labels is None:
            return {}
        if len(rows.row_labels) == 1:
            return {"class": self.labels[int(rows.row_labels[0])]}
        shares = np.bincount(rows.row_labels, minlength=self.num_labels) / max(len(rows.row_labels), 1)
        return {name: float(share) for name, share in zip(self.labels, shares, strict=True)}


class PairClassification(RowClassification):
    """Tell pairs in true order (0) from random or swapped ones (1).

    Args:
        weight: factor of the loss.
        dense: as for :class:`RowClassification`.
        pooling: as for :class:`RowClassification`.
    """

    kind = "pair"

    def __init__(
        self, weight: NotNegative = 1.0, dense: str = "pooler", pooling: Literal["first", "last"] = "first"
    ) -> None:
        super().__init__(2, weight=weight, dense=dense, pooling=pooling)
