"""Layouts whose rows go on from batch to batch, so that a core can remember the row before (``order = "contiguous"``).

The documents are one long text. It is cut into G equally long stretches, G being the rows of a global batch, and row g
of batch t is the t-th segment of stretch g::

    text      a0 a1 a2 | b0 b1 b2 | c0 c1 c2        G = 3 stretches of 3 segments
    plan      a0 b0 c0   a1 b1 c1   a2 b2 c2        batch 0, batch 1, batch 2

So any batch of any epoch can be reached at once, a process takes the same stretches of every batch, and what
is remembered of row g belongs to row g of the next batch. The stretches start anew with every epoch. Text at the end
that does not fill a segment of every stretch is left out.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Plan, take_rows
from pretraining.layouts.blocks import Blocks
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from zoo.vocabulary import Vocabulary


def contiguous_order(count: int, parallel_rows: int) -> Ints:
    """Segments of one text in the order of training: t * G + g is the t-th of stretch g.

    Args:
        count: segments of the text.
        parallel_rows: G; fewer where there are fewer segments.
    """
    parallel_rows = max(1, min(parallel_rows, count))
    each = count // parallel_rows
    order: Ints = (np.arange(parallel_rows)[None, :] * each + np.arange(each)[:, None]).reshape(-1)
    return order


class Segments(Blocks):
    """Windows of exactly ``length`` tokens that go on from batch to batch (Transformer-XL, section 3).

    Each row also names the token that follows it, so that every position has a next token to predict.

    Args:
        separator: the separator token follows every document and counts as a token of the text.
        shift: the text is cut at a random place, a new one in every epoch, and the first row begins there.
        separator_after: ``sentences``: the separator follows every sentence instead.
        across_documents: tokens attend to the document before theirs, in the row and in memory, as in the original;
            false: only to tokens of their own document.
    """

    provided_fields = frozenset({"next_token"})
    order = "contiguous"

    def __init__(
        self,
        separator: bool = False,
        shift: bool = False,
        separator_after: Literal["documents", "sentences"] = "documents",
        across_documents: bool = True,
    ) -> None:
        super().__init__(False, separator, shift, separator_after)
        self.across_documents = across_documents

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Full windows only, unless there is none."""
        plan = super().plan(store, documents, length, vocabulary, draw)
        assert plan.separators is not None
        sizes = np.add.reduceat(plan.lengths + plan.separators, plan.offsets[:-1])
        plan = dataclasses.replace(plan, next_token=np.append(_openings(plan, store, vocabulary)[1:], -1))
        full = np.flatnonzero(sizes == length)
        kept = full if len(full) else np.arange(len(plan))
        return take_rows(plan, kept[contiguous_order(len(kept), self.parallel_rows)])

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named windows."""
        rows = super().rows(store, plan, indices, length, vocabulary)
        if self.across_documents:
            return rows
        return rows.replace(token_document=_token_documents(store, plan, indices, rows.shape[1]))


def _token_documents(store: Store, plan: Plan, indices: Ints, width: int) -> NDArray[np.int32]:
    """(B, width) store document of each token of rows without template tokens, -1 at padding."""
    assert plan.separators is not None
    counts = np.diff(plan.offsets)[indices]
    pieces = ragged_ranges(plan.offsets[indices], counts)
    # a piece without a token is the separator behind the token before its place
    inside = plan.piece_starts[pieces] - (plan.lengths[pieces] == 0)
    document = np.searchsorted(store.document_tokens(), inside, side="right") - 1
    sizes = (plan.lengths + plan.separators)[pieces].astype(np.int64)
    found = np.full(len(indices) * width, -1, dtype=np.int32)
    row = np.repeat(np.arange(len(indices)), counts)
    total = np.cumsum(sizes) - sizes
    first = total - total[np.cumsum(counts) - counts][row]  # of each piece, in its row
    found[ragged_ranges(row * width + first, sizes)] = np.repeat(document, sizes)
    return found.reshape(len(indices), width)


def _openings(plan: Plan, store: Store, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """(N,) first token of each row; one that begins with an empty piece begins with the separator behind that."""
    first = plan.offsets[:-1]
    texts = plan.lengths[first] > 0
    found = np.full(len(first), -1 if vocabulary.sep is None else vocabulary.sep, dtype=np.int32)
    found[texts] = np.asarray(store.tokens)[plan.piece_starts[first[texts]]]
    return found
