"""Rows of another layout, of which some are left out."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, take_rows
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Count
from zoo.vocabulary import Vocabulary


class MinimumMarked(Layout):
    """Keep rows in which a named array of the store marks enough tokens (specs: ERNIE-THU, section 3.1).

    Args:
        layout: how documents become rows; its rows must not go on from batch to batch.
        array: name of the array.
        count: tokens of a row whose value is not 0, at least.
    """

    short = MappingProxyType({"count": 1})

    def __init__(self, layout: Layout, array: str, count: Count) -> None:
        if layout.order == "contiguous":
            raise ZooError(
                f"MinimumMarked leaves rows out, and those of {type(layout).__name__} go on from one to the next."
            )
        if count < 1:
            raise ZooError(
                f"MinimumMarked: count is {count}; at least 1 is needed, or the layout without MinimumMarked."
            )
        self.layout, self.array, self.count = layout, array, count
        self.provided_fields, self.required_fields = layout.provided_fields, layout.required_fields | {array}

    def check_length(self, length: int) -> None:
        """As the layout that makes the rows."""
        self.layout.check_length(length)

    def plan(self, store: Store, documents: Ints, length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """The other layout's rows of one epoch, fewer.

        Raises:
            ZooError: the store has no such array, or no row has enough.
        """
        if self.array not in store.arrays:
            raise ZooError(
                f"MinimumMarked counts the array {self.array!r}, which {store.path} has not (it has "
                f"{', '.join(store.arrays) or 'none'}); see data.corpus.annotations."
            )
        plan = self.layout.plan(store, documents, length, vocabulary, draw)
        edges = np.concatenate([plan.piece_starts, plan.piece_starts + plan.lengths])
        before = marked_before(store.arrays[self.array], edges)
        marked = np.append(0, np.cumsum(before[len(plan.piece_starts) :] - before[: len(plan.piece_starts)]))
        found = marked[plan.offsets[1:]] - marked[plan.offsets[:-1]]
        if len(plan) and found.max() < self.count:
            raise ZooError(
                f"MinimumMarked: no row of {length} tokens has {self.count} tokens marked in {self.array!r}; the most "
                f"is {found.max()}. Lower count, or lengthen the rows."
            )
        return take_rows(plan, np.flatnonzero(found >= self.count))

    def rows(self, store: Store, plan: Plan, indices: Ints, length: int, vocabulary: Vocabulary) -> Examples:
        """The named rows."""
        return self.layout.rows(store, plan, indices, length, vocabulary)


def marked_before(values: NDArray[np.generic], places: Ints, portion: int = 2**24) -> Ints:
    """How many of ``values`` before each place are not 0.

    Args:
        values: of a store's tokens.
        places: before which to count, in any order.
        portion: values that are counted at once, so that memory does not grow with the store.
    """
    order = np.argsort(places, kind="stable")
    ascending, found = places[order], np.empty(len(places), dtype=np.int64)
    total = 0
    for start in range(0, len(values) + 1, portion):
        counts = np.append(0, np.cumsum(np.asarray(values[start : start + portion]) != 0))
        first, last = np.searchsorted(ascending, [start, start + portion])
        found[order[first:last]] = total + counts[ascending[first:last] - start]
        total += int(counts[-1])
    return found
