"""Predictions of more than what was selected."""

from __future__ import annotations

from pretraining.arrays import Bools
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Prediction


class All(Prediction):
    """The original tokens at every real position, template tokens included (ELECTRA's all-tokens arm)."""

    def __call__(self, rows: Examples, selected: Bools) -> Bools:
        """Every real position."""
        return rows.real
