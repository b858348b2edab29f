"""Pairs with negatives made from other pairs' first segments (ERNIE 1.0's released code, reader/pretraining.py).

Worked example, a buffer of three pairs in a random order; every pair's first segment is joined with the next one's::

    true    a A   b B   c C          label 0
    false   a b   b c   c a          label 1

"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.layout import Layout, Plan
from pretraining.layouts import SentencePairs, concatenate, gather, select
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

Ints = NDArray[np.int64]
_TEMPLATE = 3  # cls, and a separator behind each segment


class BufferedPairs(Layout):
    """Every true pair once as it is (label 0), and once its first segment with another pair's (label 1).

    True pairs are those of :class:`pretraining.layouts.SentencePairs`. ``buffer`` pairs at a time are put in a random
    order; the first segment of each is joined with that of the next, the last one's with that of the first. A first
    segment that is too long is replaced by its pair's second one: half of the row is the limit on the left, what is
    left of the row on the right. What is too long even so is left out. As in the released code, two pairs of one
    document can meet; ``buffer: null``, the whole epoch, makes that rare. (That code's labels are the other way round.)

    Args:
        buffer: pairs among which partners are found, at least 2; ``None`` = all of an epoch.
        short_seq_prob: as in :class:`pretraining.layouts.SentencePairs`.

    Raises:
        ZooError: a buffer of fewer than two pairs.
    """

    provides = SentencePairs.provides

    def __init__(self, buffer: int | None = 1000, short_seq_prob: float = 0.1) -> None:
        if buffer is not None and buffer < 2:
            raise ZooError(f"BufferedPairs: buffer is {buffer}; 2 pairs are the least, or null for a whole epoch.")
        self.buffer = buffer
        self.pairs = SentencePairs("next_or_random", short_seq_prob, random_share=0.0)

    def plan(self, store: Store, documents: Ints, length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens, a false one behind the true one that its first segment is from."""
        plan = self.pairs.plan(store, documents, length, vocabulary, draw)
        assert plan.pair_label is not None
        plan = select(plan, np.flatnonzero(plan.pair_label == 0))
        partners = self._partners(len(plan), draw)
        left, right = _join_firsts(plan.lengths.astype(np.int64).reshape(-1, 2), partners, length)
        short = plan.lengths[left] + plan.lengths[right] + _TEMPLATE <= length
        fits = np.flatnonzero(short & (partners != np.arange(len(plan))))
        false = Plan(
            starts=np.stack([plan.starts[left], plan.starts[right]], axis=1)[fits].reshape(-1),
            lengths=np.stack([plan.lengths[left], plan.lengths[right]], axis=1)[fits].reshape(-1),
            types=np.tile(np.array([0, 1], dtype=np.int8), len(fits)),
            offsets=np.arange(0, 2 * len(fits) + 1, 2, dtype=np.int64),
            documents=plan.documents[fits],
            pair_label=np.ones(len(fits), dtype=np.int8),
        )
        order = np.argsort(np.concatenate([np.arange(len(plan)), fits]), kind="stable")
        return select(concatenate([plan, false]), order)

    def _partners(self, count: int, draw: Draw) -> Ints:
        """(N,) pair whose first segment each one is joined with; itself where its buffer holds no other."""
        size = self.buffer or max(count, 1)
        number = np.arange(count)
        order = np.lexsort((draw.keys(number, "pairs.buffer"), number // size))
        following = number + 1
        last = (following % size == 0) | (following == count)
        partners = np.empty(count, dtype=np.int64)
        partners[order] = order[np.where(last, number // size * size, following)]
        return partners

    def rows(self, store: Store, plan: Plan, indices: Ints, length: int, vocabulary: Vocabulary) -> Rows:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return gather(store, plan, indices, length, vocabulary, opens=True)


def _join_firsts(lengths: Ints, partners: Ints, length: int) -> tuple[Ints, Ints]:
    """Pieces, numbered as in the plan, of the false pair that each pair makes.

    Args:
        lengths: (N, 2) tokens of both segments of the true pairs.
        partners: (N,) partner of each.
        length: longest row, template tokens included.
    """
    own = np.arange(len(lengths))
    left = 2 * own + (lengths[:, 0] > (length - _TEMPLATE) // 2)
    room = length - _TEMPLATE - lengths.reshape(-1)[left]
    right = 2 * partners + (lengths[partners, 0] > room)
    return left, right
