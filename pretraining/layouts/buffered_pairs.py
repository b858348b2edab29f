"""Pairs with negatives made from other pairs (after ERNIE 1.0's released code, reader/pretraining.py).

Worked example, a buffer of three pairs in a random order, a letter a token. Each first segment is joined with the next
pair's second one; of that and of its own second segment, the longer one is cut to the other's length::

    pairs   aaa BB    cc DDDD   ee F
    true    aaa BB    cc D      ee F     label 0
    false   aaa DD    cc F      ee B     label 1

"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, take_rows
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.sentence_pairs import SentencePairs
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Range, Share
from zoo.vocabulary import Vocabulary


class BufferedPairs(Layout):
    """Every true pair once (label 0), and once its first segment with another pair's second one (label 1).

    True pairs are those of :class:`pretraining.layouts.SentencePairs`. ``buffer`` pairs at a time are put in a random
    order; the first segment of each is joined with the next one's second, the last one's with that of the first. Both
    right segments, the true and the false one, keep as many tokens as the shorter of them has, counted from their
    start: the two rows are equally long, segment by segment, and no false pair is too long. A pair that is alone in its
    buffer makes no row, so that exactly half of the rows are false.

    The released code cuts nothing, and joins two first segments: its true pairs came from files and had natural
    lengths. Here they fill their row, so length would tell the classes apart; and only a first segment opens a document
    or begins a sentence for sure. With second segments on the right of both, nothing but their relation to the left one
    does. As in that code, two pairs of one document can meet; ``buffer: null``, the whole epoch, makes that rare. (Its
    labels are the other way round.)

    Args:
        buffer: pairs among which partners are found, at least 2; ``None`` = all of an epoch.
        short_seq_prob: as in :class:`pretraining.layouts.SentencePairs`.

    Raises:
        ZooError: a buffer of fewer than two pairs.
    """

    provided_fields = SentencePairs.provided_fields

    def __init__(self, buffer: Annotated[int, Range(least=2)] | None = 1000, short_seq_prob: Share = 0.1) -> None:
        if buffer is not None and buffer < 2:
            raise ZooError(f"BufferedPairs: buffer is {buffer}; 2 pairs are the least, or null for a whole epoch.")
        self.buffer = buffer
        self.pairs = SentencePairs("next_or_random", short_seq_prob, random_share=0.0)

    def check_length(self, length: int) -> None:
        """As the layout that makes the rows."""
        self.pairs.check_length(length)

    def plan(self, store: Store, documents: Ints, length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens, a false one behind the true one that it shares its first segment with."""
        plan = self.pairs.plan(store, documents, length, vocabulary, draw)
        assert plan.row_labels is not None
        plan = take_rows(plan, np.flatnonzero(plan.row_labels == 0))
        partners = self._partners(len(plan), draw)
        own = np.flatnonzero(partners != np.arange(len(plan)))
        other = partners[own]
        starts, lengths = plan.piece_starts.reshape(-1, 2), plan.lengths.reshape(-1, 2)
        left, left_length = starts[own, 0], lengths[own, 0]
        right_length = np.minimum(lengths[own, 1], lengths[other, 1])
        count = len(own)
        return Plan(
            piece_starts=np.stack([left, starts[own, 1], left, starts[other, 1]], axis=1).reshape(-1),
            lengths=np.stack([left_length, right_length, left_length, right_length], axis=1).reshape(-1),
            piece_types=np.tile(np.array([0, 1], dtype=np.int8), 2 * count),
            offsets=np.arange(0, 4 * count + 1, 2, dtype=np.int64),
            documents=np.repeat(plan.documents[own], 2),
            row_labels=np.tile(np.array([0, 1], dtype=np.int8), count),
        )

    def _partners(self, count: int, draw: Draw) -> Ints:
        """(N,) pair whose second segment each one is joined with; itself where its buffer holds no other."""
        size = self.buffer or max(count, 1)
        number = np.arange(count)
        order = np.lexsort((draw.keys(number, "pairs.buffer"), number // size))
        following = number + 1
        last = (following % size == 0) | (following == count)
        partners = np.empty(count, dtype=np.int64)
        partners[order] = order[np.where(last, number // size * size, following)]
        return partners

    def rows(self, store: Store, plan: Plan, indices: Ints, length: int, vocabulary: Vocabulary) -> Examples:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)
