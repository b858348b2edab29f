"""Where the class of every token comes from, for objectives that predict one.

A class of this module goes into ``labels`` of :class:`pretraining.objectives.TokenClassification`; a user's own, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from pretraining.rows import Rows
from pretraining.store.token_store import ENOUGH_FOR_CAPITALS, SAMPLE_TOKENS, Store
from pretraining.tokenizer.flags import CAPITALISED
from zoo.errors import ZooError


class TokenLabels(ABC):
    """Rows to classes.

    Attributes:
        needs: arrays of :class:`Rows` that it reads; they come from the store or from the task's layout.
    """

    needs: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, rows: Rows) -> NDArray[np.int64]:
        """(B, L) class of each token, -1 where there is none: at template tokens and padding in any case."""

    def name(self, label: int) -> str:
        """What to call a class."""
        return f"class {label}"

    def check(self, store: Store) -> None:
        """Refuse text in which nothing could be learned. Default: any will do."""
        return


class Capitalised(TokenLabels):
    """1 at every piece of a word whose first letter was upper case in the original text, else 0 (ERNIE 2.0, 4.2).

    The tokenizer notes it before it lower-cases the text, at every piece of the word.
    """

    def __call__(self, rows: Rows) -> NDArray[np.int64]:
        """(B, L) 0 or 1, -1 at template tokens and padding."""
        return np.where(rows.special, -1, (rows.flags & CAPITALISED != 0).astype(np.int64))

    def name(self, label: int) -> str:
        """What to call a class."""
        return ("lower case", "capitalised")[label]

    def check(self, store: Store) -> None:
        """Refuse text without capitals: lower-cased before, or in a script that has none.

        Raises:
            ZooError: none among the first tokens, as far as there are enough to tell.
        """
        flags = np.asarray(store.flags[:SAMPLE_TOKENS])
        if len(flags) >= ENOUGH_FOR_CAPITALS and not (flags & CAPITALISED).any():
            raise ZooError(
                f"Capitalised: none of the first {len(flags):,} tokens of {store.path} was written with a capital: the "
                "text was lower-cased before, or its script has none. Leave the task out."
            )


class Array(TokenLabels):
    """What a named array holds: class + 1, 0 = this token has none.

    Args:
        array: name of an array of the store (``data.corpus.annotations``) or of one that the task's layout makes.
    """

    def __init__(self, array: str) -> None:
        self.array = array
        self.needs = frozenset({array})

    def __call__(self, rows: Rows) -> NDArray[np.int64]:
        """(B, L) class, -1 where the array holds 0."""
        return np.where(rows.special, -1, rows.arrays[self.array].astype(np.int64) - 1)

    def name(self, label: int) -> str:
        """What to call a class."""
        return f"{self.array} {label}"
