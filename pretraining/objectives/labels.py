"""A class for every token: was its word capitalised, does it occur elsewhere in its document (ERNIE 2.0).

What the classes are, a :class:`pretraining.labels.TokenLabels` says; the head and its loss are the same for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from pretraining.labels import TokenLabels
from pretraining.objective import CoreRunner, LossTerm, Objective, Targets
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads import LabelHead
from zoo.loss import TokenLoss
from zoo.vocabulary import Vocabulary


class TokenClassification(Objective):
    """Tell which of several classes each token belongs to.

    Args:
        labels: the class of each token, and which tokens have none; these make no loss.
        num_labels: classes.
        weight: factor of the loss.
        dense: activation of a dense layer of the head's own before the scores; ``none`` = none.

    Raises:
        ZooError: fewer than two classes.
    """

    head: LabelHead

    def __init__(self, labels: TokenLabels, num_labels: int = 2, weight: float = 1.0, dense: str = "none") -> None:
        super().__init__()
        if num_labels < 2:
            raise ZooError(f"TokenClassification: num_labels is {num_labels}; two classes are the least.")
        self.labels, self.num_labels, self.weight, self.dense = labels, num_labels, weight, dense
        self.needs = labels.needs

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: a linear map of each state."""
        self.head = LabelHead(config, self.num_labels, kind="token_class", dense=self.dense)

    def check_store(self, store: Store) -> None:
        """Refuse text in which the labels are all alike."""
        self.labels.check(store)

    def targets(self, rows: Rows) -> Targets:
        """A label for each token that has one."""
        labels = self.labels(rows).reshape(-1)
        if (highest := int(labels.max(initial=0))) >= self.num_labels:
            raise ZooError(
                f"TokenClassification: a token's label is {highest}, which {self.num_labels} classes have not; set "
                f"num_labels to at least {highest + 1}."
            )
        positions = np.flatnonzero(labels >= 0)
        return Targets.at(positions, labels[positions])

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the labels; states without one are not scored."""
        hidden = run_core().last_hidden_state
        positions, labels = batch.tensors["positions"], batch.tensors["labels"]
        logits = self.head(hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)).float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        correct = (logits.detach().argmax(dim=-1) == labels).sum()
        loss = TokenLoss(losses.sum(), losses.detach(), correct)
        return LossTerm.by_row(loss, batch, hidden, self.weight)

    def describe(self, rows: Rows) -> dict[str, Any]:
        """How often each class occurs among the tokens that have one."""
        labels = self.labels(rows)
        found = labels[labels >= 0]
        shares = np.bincount(found, minlength=self.num_labels) / max(len(found), 1)
        return {self.labels.name(number): float(share) for number, share in enumerate(shares)}
