"""Choices that may fall on a token twice (google-research/electra, pretrain_helpers.py)."""

from __future__ import annotations

import numpy as np

from pretraining.arrays import Bools
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Budgeted
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary


class RepeatedTokens(Budgeted):
    """Single tokens, each choice by itself from all candidates; fewer different ones than the budget says.

    The budget is rint(rate * n), as ``RandomTokens`` with ``nearest``; a token that is chosen twice is chosen once.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        max_predictions: upper limit of the choices per row.
    """

    def __init__(self, rate: Share = 0.15, max_predictions: Count | None = None) -> None:
        super().__init__(rate, "nearest", max_predictions, False)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L), True at chosen positions."""
        candidates = self.candidates(rows)
        count = candidates.sum(axis=1)
        wanted = np.where(count > 0, self.budget_of(rows, draw), 0)
        chosen = np.zeros(candidates.shape, dtype=bool)
        row = np.repeat(np.arange(len(wanted)), wanted)
        number = np.arange(len(row)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
        bits = draw.at(rows.example_ids[row], number, "choose.repeats").astype(np.uint64)
        place = (bits * count[row].astype(np.uint64)) >> np.uint64(32)
        columns = np.argsort(~candidates, axis=1, kind="stable")  # candidates first, in their order
        chosen[row, columns[row, place.astype(np.int64)]] = True
        return chosen
