"""Documents cut into segments in a new order; the label names the permutation (ERNIE 2.0)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, take_rows
from pretraining.layouts.examples import Examples
from pretraining.layouts.full_sentences import FullSentences
from pretraining.layouts.gather import build_examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Amount, Count, Share
from zoo.vocabulary import Vocabulary

_MOST_SEGMENTS = 6  # 873 classes; one more would make 5,913


# --- permutations as classes -------------------------------------------------------------------------


def reordering_classes(most: int) -> list[tuple[int, ...]]:
    """Every order of 1 to ``most`` segments, by class: shorter ones first, then in lexicographic order.

    Segment number p of class c's row is segment ``reordering_classes(most)[c][p]`` of the text. There are
    k = sum of n! for n = 1 .. ``most`` classes (specs: ERNIE 2.0, section 3); class 0 is a single segment.
    """
    return [order for n in range(1, most + 1) for order in itertools.permutations(range(n))]


def reordering_class(order: Sequence[int]) -> int:
    """Class of an order: sum of j! for j below n, plus its lexicographic rank."""
    n = len(order)
    rank = sum(
        sum(later < here for later in order[place + 1 :]) * math.factorial(n - 1 - place)
        for place, here in enumerate(order)
    )
    return sum(map(math.factorial, range(1, n))) + rank


# --- sentence reordering -----------------------------------------------------------------------------


class ReorderedSegments(Layout):
    """A stretch of a document in 1 to ``max_segments`` segments, in any order (ERNIE 2.0, sentence reordering).

    A document is cut into stretches of whole sentences that fill a row. A stretch is cut at random places into n
    segments, n drawn by ``shares``; these are put in a random one of their n! orders. The row is ``cls``, the segments
    one after the other without anything between them, ``sep``. Its class is the order's
    (:func:`reordering_classes`). Segments are whole sentences; in a stretch of fewer than ``max_segments`` sentences
    they are whole words, because n would otherwise depend on how long sentences are.

    Args:
        max_segments: m; there are sum of n! for n = 1 .. m classes: 3, 9, 33 or 153 for 2, 3, 4 or 5.
        shares: relative frequency of n = 1 .. m; absent = all alike. The paper states none.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels", "segment"})

    def __init__(self, max_segments: Count = 3, shares: list[Share] | None = None) -> None:
        if not 2 <= max_segments <= _MOST_SEGMENTS:
            raise ZooError(f"ReorderedSegments: max_segments is {max_segments}; 2 to {_MOST_SEGMENTS} would work.")
        if shares is not None and (len(shares) != max_segments or min(shares) < 0 or sum(shares) <= 0):
            raise ZooError(
                f"ReorderedSegments: shares = {shares}; one number for each of 1 to {max_segments} segments is needed, "
                "none below 0 and not all of them 0."
            )
        self.max_segments = max_segments
        self._thresholds = np.cumsum(shares or [1.0] * max_segments) / sum(shares or [1.0] * max_segments)
        orders = reordering_classes(max_segments)
        self._orders = np.array([[*order, *range(len(order), max_segments)] for order in orders], dtype=np.int64)
        self._first = np.array([reordering_class(range(n)) for n in range(1, max_segments + 1)])
        self._count = np.array([math.factorial(n) for n in range(1, max_segments + 1)])

    def check_length(self, length: int) -> None:
        """As the layout that makes the rows."""
        FullSentences(cross_documents=False).check_length(length)

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        stretches = FullSentences(cross_documents=False).plan(store, documents, length, vocabulary, draw)
        start, size = stretches.piece_starts, stretches.lengths.astype(np.int64)  # a row has a single piece
        row, place = self._candidates(store, start, size)
        kept = np.bincount(row, minlength=len(start)) >= self.max_segments - 1
        if not kept.any():
            raise ZooError(
                f"ReorderedSegments: no row of {length} tokens of {store.path} has {self.max_segments} words, so none "
                f"can be cut into {self.max_segments} segments. Lengthen the rows, or take a smaller max_segments."
            )
        row, place = (np.cumsum(kept) - 1)[row[kept[row]]], place[kept[row]]
        start, size = start[kept], size[kept]
        label = self._labels(start, draw)
        return self._plan(self._edges(start, size, row, place, label, draw), label, stretches.documents[kept])

    def _candidates(self, store: Store, start: Ints, size: Ints) -> tuple[Ints, Ints]:
        """Stretch and token of every place where one can be cut, ascending: sentence ends, or else word starts."""
        edges = np.asarray(store.sentences)
        first = np.searchsorted(edges, start, side="right")
        inner = np.searchsorted(edges, start + size, side="left") - first  # sentence ends strictly inside
        enough = inner >= self.max_segments - 1
        by_sentence = np.repeat(np.flatnonzero(enough), inner[enough])
        ends = edges[ragged_ranges(first[enough], inner[enough])]
        few = np.flatnonzero(~enough)
        words = ragged_ranges(start[few] + 1, size[few] - 1)
        opens = (np.asarray(store.flags)[words] & WORD_START) != 0
        by_word = np.repeat(few, size[few] - 1)[opens]
        row, place = np.concatenate([by_sentence, by_word]), np.concatenate([ends, words[opens]])
        order = np.argsort(row, kind="stable")
        return row[order], place[order]

    def _labels(self, example: Ints, draw: Draw) -> Ints:
        """(R,) class of each stretch: a number of segments by ``shares``, then one of its orders."""
        number = np.searchsorted(self._thresholds, draw.uniform(example, "reorder.segments"), side="right")
        number = np.minimum(number, self.max_segments - 1)
        return self._first[number] + draw.integers(example, self._count[number], "reorder.order")

    def _sizes(self, label: Ints) -> Ints:
        """(R,) segments of each class."""
        return np.searchsorted(self._first, label, side="right")

    def _edges(self, start: Ints, size: Ints, row: Ints, place: Ints, label: Ints, draw: Draw) -> Ints:
        """(R, m + 1) tokens at which the segments begin, the stretch's end in all places that are left.

        Of the places of a stretch the n - 1 with the lowest keys are cut: a uniform choice.
        """
        count = np.bincount(row, minlength=len(start))
        rank = np.empty(len(row), dtype=np.int64)
        rank[np.lexsort((draw.keys(place, "reorder.cuts"), row))] = ragged_ranges(np.zeros_like(count), count)
        cuts = self._sizes(label) - 1
        cut = rank < cuts[row]
        edges = np.repeat((start + size)[:, None], self.max_segments + 1, axis=1)
        edges[:, 0] = start
        edges[row[cut], ragged_ranges(np.ones_like(cuts), cuts)] = place[cut]  # both go row by row, places ascending
        return edges

    def _plan(self, edges: Ints, label: Ints, documents: Ints) -> Plan:
        """Pieces in their new order; a separator stands behind the last one only."""
        size = self._sizes(label)
        order = self._orders[label]
        row = np.arange(len(label))[:, None]
        starts, lengths = edges[row, order], edges[row, order + 1] - edges[row, order]
        used = np.arange(self.max_segments)[None, :] < size[:, None]
        closes = np.arange(self.max_segments)[None, :] == (size - 1)[:, None]
        return Plan(
            piece_starts=starts[used],
            lengths=lengths[used].astype(np.int32),
            piece_types=np.zeros(int(size.sum()), dtype=np.int8),
            offsets=np.append(0, np.cumsum(size)),
            documents=documents,
            row_labels=label.astype(np.int16),
            separators=closes[used],
        )

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows; the array ``segment`` has the number of each token's segment in the text, from 1."""
        rows = build_examples(store, plan, indices, length, vocabulary, opens=True)
        assert plan.row_labels is not None
        label = plan.row_labels[indices].astype(np.int64)
        size = self._sizes(label)
        used = np.arange(self.max_segments)[None, :] < size[:, None]
        pieces = ragged_ranges(plan.offsets[indices], size)
        segment = np.zeros(rows.shape, dtype=np.uint8)
        segment[~rows.special_tokens_mask] = np.repeat(self._orders[label][used] + 1, plan.lengths[pieces])
        return rows.replace(arrays={**rows.arrays, "segment": segment})


# --- token-document relation -------------------------------------------------------------------------


class DocumentSegments(Layout):
    """Whole sentences of one document, and for each token whether the document has it elsewhere (ERNIE 2.0, 4.2).

    A segment is a row: rows do not cross document ends, and documents of a single row are left out. The array
    ``elsewhere`` is 2 where the same token occurs in another row of the document, else 1; 0 where nothing is asked.

    Args:
        skip_most_frequent: nothing is asked of the corpus' so many most frequent tokens, which occur everywhere.
            The paper names no candidates; 0 asks of every token.
    """

    provided_fields = frozenset({"elsewhere"})

    def __init__(self, skip_most_frequent: Amount = 0) -> None:
        if skip_most_frequent < 0:
            raise ZooError(f"DocumentSegments: skip_most_frequent is {skip_most_frequent}; 0 or more.")
        self.skip_most_frequent = skip_most_frequent
        self._sentences = FullSentences(cross_documents=False)

    def check_length(self, length: int) -> None:
        """As the layout that makes the rows."""
        self._sentences.check_length(length)

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens, of documents with two rows and more."""
        plan = self._sentences.plan(store, documents, length, vocabulary, draw)
        rows = np.bincount(np.searchsorted(documents, plan.documents), minlength=len(documents))
        several = rows[np.searchsorted(documents, plan.documents)] > 1
        if not several.any():
            raise ZooError(
                f"DocumentSegments: none of the {len(documents)} documents of {store.path} is longer than a row of "
                f"{length} tokens, so no token can occur in another row of its document. Shorten data.sequence_length "
                "or leave the task out."
            )
        return take_rows(plan, np.flatnonzero(several))

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows; a token occurs elsewhere where its document has more of it than its row."""
        rows = self._sentences.rows(store, plan, indices, length, vocabulary)
        offsets = store.document_tokens()
        size = vocabulary.size
        elsewhere = np.zeros(rows.shape, dtype=np.uint8)
        totals: dict[int, NDArray[np.int64]] = {}
        for row, document in enumerate(rows.document_ids.tolist()):
            if document not in totals:
                totals[document] = np.bincount(store.tokens[offsets[document] : offsets[document + 1]], minlength=size)
            own = ~rows.special_tokens_mask[row]
            tokens = rows.input_ids[row, own]
            elsewhere[row, own] = 1 + (totals[document][tokens] > np.bincount(tokens, minlength=size)[tokens])
        if self.skip_most_frequent:
            elsewhere[self._frequent(store)[rows.input_ids]] = 0
        return rows.replace(arrays={**rows.arrays, "elsewhere": elsewhere})

    def _frequent(self, store: Store) -> NDArray[np.bool_]:
        """(V,) the most frequent tokens; of equals, those with lower ids."""
        counts = np.asarray(store.counts)
        frequent = np.zeros(len(counts), dtype=bool)
        frequent[np.argsort(-counts, kind="stable")[: self.skip_most_frequent]] = True
        return frequent
