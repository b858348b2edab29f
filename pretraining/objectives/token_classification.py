"""A class for every token: was its word capitalised, does it occur elsewhere in its document (ERNIE 2.0).

:class:`TokenLabels` and its kinds say what the classes are; :class:`TokenClassification` is the objective, with the
same head and loss for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pretraining.arrays import CAPITALISED
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from pretraining.store.token_store import ENOUGH_FOR_CAPITALS, SAMPLE_TOKENS, Store
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads.cross_entropy import TokenLoss
from zoo.heads.token_heads import LabelHead
from zoo.values import Count, NotNegative
from zoo.vocabulary import Vocabulary

# --- what the classes are ------------------------------------------------------------------------------


class TokenLabels(ABC):
    """Rows to a class for each token.

    Attributes:
        required_fields: arrays of :class:`Examples` that it reads; they come from the store or from the task's layout.
    """

    required_fields: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, rows: Examples) -> NDArray[np.int64]:
        """(B, L) class of each token, -1 where there is none: at template tokens and padding in any case."""

    def name(self, label: int) -> str:
        """What to call a class."""
        return f"class {label}"

    def check(self, store: Store) -> None:
        """Raise ZooError if nothing could be learned from a text. Default: any will do."""
        return


class CapitalisationLabels(TokenLabels):
    """1 at every piece of a word whose first letter was upper case in the original text, else 0 (ERNIE 2.0, 4.2).

    The tokenizer notes it before it lower-cases the text, at every piece of the word.
    """

    def __call__(self, rows: Examples) -> NDArray[np.int64]:
        """(B, L) 0 or 1, -1 at template tokens and padding."""
        return np.where(rows.special_tokens_mask, -1, (rows.token_flags & CAPITALISED != 0).astype(np.int64))

    def name(self, label: int) -> str:
        """What to call a class."""
        return ("lower case", "capitalised")[label]

    def check(self, store: Store) -> None:
        """Raise ZooError if a text has no capitals: it was lower-cased before, or its script has none.

        Raises:
            ZooError: none among the first tokens, as far as there are enough to tell.
        """
        flags = np.asarray(store.flags[:SAMPLE_TOKENS])
        if len(flags) >= ENOUGH_FOR_CAPITALS and not (flags & CAPITALISED).any():
            raise ZooError(
                f"CapitalisationLabels: none of the first {len(flags):,} tokens of {store.path} was written with a "
                "capital: the text was lower-cased before, or its script has none. Leave the task out."
            )


class ArrayLabels(TokenLabels):
    """What a named array holds: class + 1, 0 = this token has none.

    Args:
        array: name of an array of the store (``data.corpus.annotations``) or of one that the task's layout makes.
    """

    def __init__(self, array: str) -> None:
        self.array = array
        self.required_fields = frozenset({array})

    def __call__(self, rows: Examples) -> NDArray[np.int64]:
        """(B, L) class, -1 where the array holds 0."""
        return np.where(rows.special_tokens_mask, -1, rows.arrays[self.array].astype(np.int64) - 1)

    def name(self, label: int) -> str:
        """What to call a class."""
        return f"{self.array} {label}"


# --- the objective -------------------------------------------------------------------------------------


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

    def __init__(
        self, labels: TokenLabels, num_labels: Count = 2, weight: NotNegative = 1.0, dense: str = "none"
    ) -> None:
        super().__init__()
        if num_labels < 2:
            raise ZooError(f"TokenClassification: num_labels is {num_labels}; two classes are the least.")
        self.labels, self.num_labels, self.weight, self.dense = labels, num_labels, weight, dense
        self.required_fields = labels.required_fields

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: a linear map of each state."""
        self.head = LabelHead(config, self.num_labels, kind="token_class", dense=self.dense)

    def check_store(self, store: Store) -> None:
        """Raise ZooError if a text's labels are all alike."""
        self.labels.check(store)

    def targets(self, rows: Examples) -> Targets:
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

    def describe(self, rows: Examples) -> dict[str, Any]:
        """How often each class occurs among the tokens that have one."""
        labels = self.labels(rows)
        found = labels[labels >= 0]
        shares = np.bincount(found, minlength=self.num_labels) / max(len(found), 1)
        return {self.labels.name(number): float(share) for number, share in enumerate(shares)}
