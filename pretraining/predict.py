"""What is predicted: the third of the three parts of a masking scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from pretraining.rows import Rows


class Predict(ABC):
    """Says at which positions the original token is predicted."""

    @abstractmethod
    def __call__(self, rows: Rows, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(B, L), True at positions that have a target."""


class Selected(Predict):
    """The original tokens at all selected positions: masked, replaced and kept alike (BERT)."""

    def __call__(self, rows: Rows, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The selection itself."""
        return selected


class All(Predict):
    """The original tokens at every real position, template tokens included (ELECTRA's all-tokens arm)."""

    def __call__(self, rows: Rows, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Every real position."""
        return rows.real
