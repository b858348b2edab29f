"""From a plan to the rows of a step: order, epochs, shares of processes, held-out documents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan
from pretraining.layouts.buckets import batches_by_tokens
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import Objective
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

_VALIDATION_SEED = 20_181_011  # held-out documents and their masks are the same for every run
_VALIDATION_SHARE = 0.1


def split_documents(store: Store, validation_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and held-out documents, chosen by a hash of the document's number.

    Translations are split by their source sentence: pairs that have it in common stand on one side.

    Args:
        store: the corpus.
        validation_tokens: held-out tokens wanted; at most a tenth of the corpus is taken, so that small
            corpora keep their training text.
    """
    documents = np.arange(store.num_documents, dtype=np.int64)
    lengths = np.diff(store.document_tokens())
    wanted = min(validation_tokens, int(_VALIDATION_SHARE * lengths.sum()))
    if wanted <= 0 or len(documents) < 4:
        return documents, documents[:0]
    owner = documents if not store.parallel else _source_numbers(store)
    sizes = np.bincount(owner, weights=lengths)
    order = Draw(_VALIDATION_SEED, 0).permutation(len(sizes), "validation")
    count = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    held_out = np.isin(owner, order[: min(max(count, 2), len(sizes) // 2)])
    return documents[~held_out], documents[held_out]


def _source_numbers(store: Store) -> NDArray[np.int64]:
    """(D,) a number for each pair's source sentence, the same where the tokens are the same."""
    edges = np.asarray(store.sentences)
    first = np.asarray(store.documents)[:-1]
    starts, sizes = edges[first], edges[np.minimum(first + 1, len(edges) - 1)] - edges[first]
    row = np.repeat(np.arange(len(first)), sizes)
    places = ragged_ranges(np.zeros_like(sizes), sizes)
    tokens = np.asarray(store.tokens[ragged_ranges(starts, sizes)]).astype(np.int64)
    with np.errstate(over="ignore"):
        digests = np.zeros(len(first), dtype=np.uint64)
        np.add.at(digests, row, Draw(_VALIDATION_SEED, 0).keys((places << 32) + tokens, "source"))
    return np.unique(digests, return_inverse=True)[1].reshape(-1)


@dataclass
class Cursor:
    """How far a task has read: the epoch and the rows of it that are used up."""

    epoch: int = 0
    offset: int = 0


@dataclass
class TaskLoader:
    """The rows of one task, reachable at any position.

    Args:
        store: the token store.
        documents: store numbers that are read.
        layout: how they become rows.
        objectives: those that read the rows, by name.
        vocabulary: special ids and size.
        length: longest row.
        seed: what keys plan, order and masks.
        mask_copies: static copies of the data, or ``None``.
        task_type_id: number of the task.
        batch_tokens: rows are read in batches of like length of so many tokens; ``None`` = in an order that is drawn.
    """

    store: Store
    documents: NDArray[np.int64]
    layout: Layout
    objectives: dict[str, Objective]
    vocabulary: Vocabulary
    length: int
    seed: int
    mask_copies: int | None = None
    task_type_id: int = 0
    batch_tokens: int | None = None
    _plans: dict[int, tuple[Plan, NDArray[np.int64]]] = field(default_factory=dict)
    _ends: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def pad(self) -> int:
        """Id that stands behind a row's end; any would do."""
        return self.vocabulary.pad or 0

    def _draw(self, epoch: int) -> Draw:
        """Random numbers of an epoch's data; static copies repeat."""
        return Draw(self.seed, epoch if self.mask_copies is None else epoch % self.mask_copies)

    def plan(self, epoch: int) -> tuple[Plan, NDArray[np.int64]]:
        """An epoch's rows and the order they are read in."""
        if epoch not in self._plans:
            plan = self.layout.plan(self.store, self.documents, self.length, self.vocabulary, self._draw(epoch))
            if len(plan) == 0:
                raise ZooError(
                    f"{self.store.path}: the {len(self.documents)} documents give no row for "
                    f"{type(self.layout).__name__}; more text, or a shorter data.sequence_length, is needed."
                )
            order = np.arange(len(plan))
            if self.batch_tokens is not None:
                order, self._ends[epoch] = batches_by_tokens(
                    self.layout.row_lengths(plan), self.batch_tokens, Draw(self.seed, epoch)
                )
            elif self.layout.order == "shuffled":
                order = Draw(self.seed, epoch).permutation(len(plan), "order")
            self._plans = {e: p for e, p in self._plans.items() if e >= epoch - 1}
            self._plans[epoch] = (plan, order)
        return self._plans[epoch]

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch, where rows are batched by their tokens."""
        self.plan(epoch)
        return len(self._ends[epoch])

    def batch_rows(self, cursor: Cursor) -> int:
        """Rows of the batch that a cursor stands before, where rows are batched by their tokens."""
        self.plan(cursor.epoch)
        ends = self._ends[cursor.epoch]
        return int(ends[np.searchsorted(ends, cursor.offset, side="right")]) - cursor.offset

    def advance(self, cursor: Cursor, count: int) -> list[tuple[int, NDArray[np.int64]]]:
        """The next ``count`` rows as (epoch, plan indices), moving ``cursor`` past them."""
        taken = []
        while count > 0:
            plan, order = self.plan(cursor.epoch)
            part = order[cursor.offset : cursor.offset + count]
            if len(part):
                taken.append((cursor.epoch, part))
            count -= len(part)
            cursor.offset += len(part)
            if cursor.offset >= len(plan):
                cursor.epoch, cursor.offset = cursor.epoch + 1, 0
        return taken

    def rows(self, epoch: int, indices: NDArray[np.int64]) -> tuple[Examples, Draw]:
        """Rows of one epoch, laid out, and the random numbers that corrupt them."""
        plan, _ = self.plan(epoch)
        rows = self.layout.rows(self.store, plan, indices, self.length, self.vocabulary)
        if self.task_type_id:
            rows = rows.replace(task_type_ids=np.full(len(rows.lengths), self.task_type_id, dtype=np.int64))
        return rows, self._draw(epoch)

    def parts(self, taken: list[tuple[int, NDArray[np.int64]]], start: int, stop: int) -> list[tuple[Examples, Draw]]:
        """Rows ``start`` to ``stop`` of those that :meth:`advance` named; they may span two epochs."""
        found, first = [], 0
        for epoch, indices in taken:
            own = indices[max(start - first, 0) : max(stop - first, 0)]
            if len(own):
                found.append(self.rows(epoch, own))
            first += len(indices)
        return found
