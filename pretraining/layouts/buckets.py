"""Batches of rows of like length, as many rows as a number of tokens takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw

ROW_MULTIPLE = 8
"""Rows of a batch are a multiple of this, so that processes have equal shares (as in fairseq)."""


class Batches(NamedTuple):
    """An epoch's rows, batch after batch.

    Args:
        order: (N,) rows of the plan in the order they are read in.
        ends: (S,) rows that have been read after each batch.
    """

    order: Ints
    ends: Ints


def batches_by_tokens(lengths: Ints, batch_tokens: int, draw: Draw) -> Batches:
    """All rows of an epoch in batches whose rows, padded to the longest, have at most so many tokens.

    Rows of one length come together in an order that is drawn anew in each epoch, and so does the order of the batches.
    Up to seven rows that are left over join the longest ones.

    Args:
        lengths: (N,) of the rows.
        batch_tokens: rows of a batch times the length of its longest.
        draw: random numbers of the epoch.
    """
    rows = draw.permutation(len(lengths), "order")
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    sizes, sorted_lengths, start = [], lengths[rows], 0
    while start < len(rows):
        # As many as the shortest would allow, then as many as the longest of these does.
        most = min(start + max(1, batch_tokens // int(sorted_lengths[start])), len(rows))
        count = min(max(1, batch_tokens // int(sorted_lengths[most - 1])), len(rows) - start)
        count -= count % ROW_MULTIPLE if count > ROW_MULTIPLE else 0
        if len(rows) - start - count < ROW_MULTIPLE:
            count = len(rows) - start
        sizes.append(count)
        start += count
    size, turn = np.array(sizes, dtype=np.int64), draw.permutation(len(sizes), "batches")
    begin = np.cumsum(size) - size
    return Batches(rows[ragged_ranges(begin[turn], size[turn])], np.cumsum(size[turn]))
