"""The three parts of a masking scheme: which positions, what stands there instead, what is predicted.

A scheme is a :class:`Selector`, a :class:`Replacement` and a :class:`Prediction`. All of them read a whole batch. All
draws are keyed by (seed, epoch, example, position or word), so the answer does not depend on what else is in the
batch, nor on its padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np

from pretraining.arrays import Bools, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary

Budget = Literal["nearest", "stochastic", "bernoulli"]
BUDGETS: tuple[Budget, ...] = ("nearest", "stochastic", "bernoulli")


class Selector(ABC):
    """Chooses the positions of a masking scheme.

    Attributes:
        required_fields: per-token arrays of the store that it reads.
    """

    required_fields: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L), True at chosen positions; never at padding."""

    def check(self, store: Store) -> None:
        """Raise ZooError, before training, if nothing of a text could be chosen as this says."""
        return


class Replacement(ABC):
    """Says what the core reads at chosen positions.

    Attributes:
        needs_mask: whether the tokenizer must have a mask token.
        shown: shares of chosen positions at which the core reads a uniformly random token, and the original one.
    """

    needs_mask: bool = True
    shown: tuple[float, float] = (0.0, 0.0)

    @abstractmethod
    def __call__(self, rows: Examples, selected: Bools, draw: Draw, vocabulary: Vocabulary) -> Ints32:
        """New (B, L) input ids; positions that are not selected keep theirs."""

    def data_files(self) -> list[Path]:
        """Files that it reads, checked before any text is prepared; a run goes on only with the same contents."""
        return []

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Learn the tokenizer's words; called once, before anything is filled."""
        return

    def check(self, store: Store) -> None:
        """Raise ZooError, before training, if it cannot fill a text as it says."""
        return


class Prediction(ABC):
    """Says at which positions the original token is predicted."""

    @abstractmethod
    def __call__(self, rows: Examples, selected: Bools) -> Bools:
        """(B, L), True at positions that have a target."""


class Selected(Prediction):
    """The original tokens at all selected positions: masked, replaced and kept alike (BERT)."""

    def __call__(self, rows: Examples, selected: Bools) -> Bools:
        """The selection itself."""
        return selected


class Budgeted(Selector):
    """A chooser with a number of tokens per row that it must not exceed.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        budget: ``nearest`` rounds half to even and takes at least one (google-research/bert,
            create_pretraining_data.py); ``stochastic`` takes floor(rate * n + u) with u uniform in
            [0, 1), so that the expectation is exact (fairseq, mask_tokens_dataset.py); ``bernoulli`` has no
            budget, every unit is taken by itself with the chance ``rate`` (PaddlePaddle/ERNIE, batching.py).
        max_predictions: upper limit per row.
        include_special: whether template tokens can be chosen.

    Raises:
        ZooError: a rate outside (0, 1], a limit below 1, or a limit of independent draws.
    """

    def __init__(self, rate: Share, budget: Budget, max_predictions: Count | None, include_special: bool) -> None:
        if not 0.0 < rate <= 1.0:
            raise ZooError(f"{type(self).__name__}: rate is {rate}; it must lie in (0, 1], for example 0.15.")
        if max_predictions is not None and max_predictions < 1:
            raise ZooError(f"{type(self).__name__}: max_predictions is {max_predictions}; 1 or more, or null for none.")
        if budget not in BUDGETS:
            raise ZooError(f"{type(self).__name__}: budget is {budget!r}; {', '.join(BUDGETS)} would work.")
        if budget == "bernoulli" and max_predictions is not None:
            raise ZooError(
                f"{type(self).__name__}: max_predictions = {max_predictions} limits a budget, and `budget: bernoulli` "
                "has none; leave one of the two out."
            )
        self.rate, self.budget = rate, budget
        self.max_predictions, self.include_special = max_predictions, include_special

    @property
    def threshold(self) -> np.uint32:
        """32-bit draws below it have the chance ``rate``."""
        return np.uint32(min(round(self.rate * 2**32), 2**32 - 1))

    def candidates(self, rows: Examples) -> Bools:
        """(B, L), True where a position may be chosen."""
        return rows.real if self.include_special else ~rows.special_tokens_mask

    def budget_of(self, rows: Examples, draw: Draw) -> Ints32:
        """(B,) number of tokens to choose; with independent draws no number is too large."""
        share = rows.lengths * self.rate
        if self.budget == "bernoulli":
            return rows.lengths.astype(np.int32)
        if self.budget == "stochastic":
            wanted = np.floor(share + draw.uniform(rows.example_ids, "choose.count"))
        else:
            wanted = np.maximum(np.rint(share), 1)  # rint is half to even, as Python's round
        if self.max_predictions is not None:
            wanted = np.minimum(wanted, self.max_predictions)
        return wanted.astype(np.int32)
