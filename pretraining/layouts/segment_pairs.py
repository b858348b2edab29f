"""Pairs of segments that go on from batch to batch, with a part that the next row remembers (XLNet)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens, take_rows
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.segments import contiguous_order
from pretraining.layouts.sentences import sentence_table
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary


class _Text(NamedTuple):
    """The documents as one text. D documents that have tokens.

    Args:
        bounds: (D + 1,) place in the text at which each document begins, and the end.
        starts: (D,) its first token in the store.
        number: (D,) its number in the store.
        edges: (E,) ascending places between sentences, both ends of the text included.
    """

    bounds: Ints
    starts: Ints
    number: Ints
    edges: Ints

    @property
    def total(self) -> int:
        """Tokens."""
        return int(self.bounds[-1])


def _text(store: Store, documents: Ints) -> _Text:
    offsets = store.document_tokens()
    documents = documents[offsets[documents + 1] > offsets[documents]]
    sizes = offsets[documents + 1] - offsets[documents]
    edges = np.unique(sentence_table(store, documents).tokens)
    return _Text(np.append(0, np.cumsum(sizes)), offsets[documents], documents, edges)


class SegmentPairs(Layout):
    """Rows whose first part continues the row before, and whose rest is a pair: ``text A sep B sep cls``.

    (XLNet, section 3.2; create_tfrecords and _split_a_and_b.) The first part is the next ``reuse_len`` tokens of the
    text; A begins where it ends and stops between two sentences; B is what follows A (label 0), or, for
    ``random_share`` of the rows, a run of whole sentences from a random place of the text (label 1). The longer of A
    and B then loses tokens at its end until the row is exactly full. Segments are 0 up to A's separator, 1 for B and
    its separator, 2 for the last token.

    In the second half of every batch's parallel rows the text runs backwards: the same rules on the text read
    from its end.

    Args:
        reuse_len: tokens of the first part, which the next row remembers; ``None`` = half a row.
        bidirectional: half of the parallel rows run backwards.
        random_share: share of rows whose B is from elsewhere.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels", "reuse_length", "reversed"})
    order = "contiguous"

    def __init__(self, reuse_len: Count | None = None, bidirectional: bool = True, random_share: Share = 0.5) -> None:
        if reuse_len is not None and reuse_len < 1:
            raise ZooError(f"SegmentPairs: reuse_len is {reuse_len}; at least 1, or null for half a row.")
        if not 0.0 <= random_share <= 1.0:
            raise ZooError(f"SegmentPairs: random_share is {random_share}; a share in [0, 1] is needed.")
        self.reuse_len, self.bidirectional, self.random_share = reuse_len, bidirectional, random_share

    def memory_span(self, length: int) -> int:
        """Tokens of a row's first part."""
        return length // 2 if self.reuse_len is None else self.reuse_len

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        reuse = self.memory_span(length)
        if length - reuse < 5:
            raise ZooError(
                f"SegmentPairs: rows of {length} tokens, {reuse} of them reused, have no room for two segments and "
                "three template tokens; lengthen the rows (data.sequence_length) or lower reuse_len."
            )

    def _parts(self, length: int) -> tuple[int, int]:
        """Tokens of a row's first part, and of A and B together."""
        self.check_length(length)
        reuse = self.memory_span(length)
        return reuse, length - reuse - 3

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of exactly ``length`` tokens."""
        check_documents(store, documents, "SegmentPairs")
        check_special_tokens(vocabulary, "SegmentPairs", cls=True, sep=True)
        reuse, budget = self._parts(length)
        text = _text(store, documents)
        count = max(0, -((reuse + budget - text.total) // reuse))
        ahead, label = self._ranges(text.edges, count, reuse, budget, draw, "ahead")
        if not self.bidirectional:
            plan = _plan(text, ahead, label, np.zeros(count, dtype=bool))
            return take_rows(plan, contiguous_order(count, self.parallel_rows))
        back, also = self._ranges(text.total - text.edges[::-1], count, reuse, budget, draw, "back")
        turned = np.stack([text.total - back[..., 1], text.total - back[..., 0]], axis=-1)
        ways = np.repeat([False, True], count)
        plan = _plan(text, np.concatenate([ahead, turned]), np.concatenate([label, also]), ways)
        return take_rows(plan, self._order(count))

    def _order(self, count: int) -> Ints:
        """Rows of both ways in the order of training: backward ones are the second half of every batch."""
        if self.parallel_rows < 2:
            return np.arange(2 * count)
        half = max(1, min((self.parallel_rows + 1) // 2, count))
        ahead = contiguous_order(count, half).reshape(-1, half) if count else np.zeros((0, half), dtype=np.int64)
        return np.concatenate([ahead, count + ahead[:, : min(self.parallel_rows // 2, half)]], axis=1).reshape(-1)

    def _ranges(
        self, edges: Ints, count: int, reuse: int, budget: int, draw: Draw, way: str
    ) -> tuple[Ints, NDArray[np.int8]]:
        """(N, 3, 2) beginning and end in the text of each row's first part, A and B; and the (N,) labels."""
        number, total = np.arange(count), int(edges[-1])
        begin = (number + 1) * reuse
        first = np.searchsorted(edges, begin, side="right")
        last = np.searchsorted(edges, begin + budget, side="left")
        cuts = last - first  # places between sentences at which A can end
        cut = edges[first + draw.integers(number, np.maximum(cuts, 1), f"segments.cut.{way}")]
        tossed = draw.uniform(number, f"segments.label.{way}") < self.random_share
        random = tossed | (cuts == 0)
        a_end = np.where(cuts > 0, cut, edges[last])
        wanted = np.maximum(budget - (a_end - begin), 1)
        place = draw.integers(number, total - wanted, f"segments.place.{way}")
        b_begin = np.where(random, edges[np.searchsorted(edges, place, side="right") - 1], a_end)
        b_end = np.where(random, edges[np.searchsorted(edges, place + wanted, side="left")], edges[last])
        a, b = a_end - begin, b_end - b_begin
        excess = a + b - budget
        alone = np.minimum(excess, np.abs(a - b))  # first the longer one is cut, then both in turn, B first
        rest = excess - alone
        a = a - np.where(a > b, alone, 0) - rest // 2
        b = budget - a
        ranges = np.stack([begin - reuse, begin, begin, begin + a, b_begin, b_begin + b], axis=1)
        return ranges.reshape(-1, 3, 2), random.astype(np.int8)

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows."""
        rows = build_examples(store, plan, indices, length, vocabulary, opens=False, closes=True)
        return rows.replace(reuse_length=np.full(len(indices), self._parts(length)[0], dtype=np.int64))


def _plan(text: _Text, ranges: Ints, label: NDArray[np.int8], backwards: NDArray[np.bool_]) -> Plan:
    """A plan of rows of three ranges each; ranges are cut where documents meet.

    Args:
        text: the documents.
        ranges: (N, 3, 2) beginnings and ends in the text, never empty.
        label: (N,) of the pairs.
        backwards: (N,) rows that are read from the end: their pieces follow each other in the other order.
    """
    begin, end = ranges[..., 0].reshape(-1), ranges[..., 1].reshape(-1)
    first = np.searchsorted(text.bounds, begin, side="right") - 1
    counts = np.searchsorted(text.bounds, end, side="left") - first
    within = ragged_ranges(np.zeros_like(counts), counts)
    turned = np.repeat(np.repeat(backwards, 3), counts)
    document = np.repeat(first, counts) + np.where(turned, np.repeat(counts, counts) - 1 - within, within)
    starts = np.maximum(text.bounds[document], np.repeat(begin, counts))
    sizes = np.minimum(text.bounds[document + 1], np.repeat(end, counts)) - starts
    part = np.repeat(np.tile(np.arange(3), len(ranges)), counts)
    offsets = np.append(0, np.cumsum(counts.reshape(-1, 3).sum(axis=1)))
    return Plan(
        piece_starts=text.starts[document] + starts - text.bounds[document],
        lengths=sizes.astype(np.int32),
        piece_types=(part == 2).astype(np.int8),
        offsets=offsets,
        documents=text.number[document[offsets[:-1]]],
        row_labels=label,
        separators=(part > 0) & (within == np.repeat(counts, counts) - 1),
        reversed=backwards,
    )
