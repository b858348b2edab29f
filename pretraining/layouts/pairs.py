"""Pairs of segments: cut to a length, swapped, or with a random second segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Plan
from pretraining.layouts.sentences import SentenceTable
from pretraining.store.token_store import Store


class PairTable(NamedTuple):
    """Pieces of pairs under construction; (R,) each."""

    first_start: Ints
    first_length: Ints
    second_start: Ints
    second_length: Ints
    label: Ints
    example_ids: Ints
    document_ids: Ints


def has_chunk(sentences: SentenceTable, budget: int) -> bool:
    """Whether some chunk of at most ``budget`` tokens can reach a second sentence."""
    follows = sentences.place[1:] == sentences.place[:-1]
    return bool((follows & (np.diff(sentences.tokens)[:-1] < budget)).any())


def random_second_segments(
    store: Store, documents: Ints, example: Ints, document: Ints, wanted: Ints, draw: Draw
) -> tuple[Ints, Ints]:
    """Start and length of random second segments.

    Up to 10 draws find another document; from a uniform sentence on, sentences are taken until ``wanted``
    tokens are reached or the document ends.
    """
    drawn = draw.bits(example, 10, "pairs.document").astype(np.uint64) * np.uint64(len(documents))
    candidates = documents[(drawn >> np.uint64(32)).astype(np.int64)]
    other = candidates != document[:, None]
    choice = np.where(other.any(axis=1), other.argmax(axis=1), 9)
    chosen = candidates[np.arange(len(example)), choice]
    bounds, edges = np.asarray(store.documents), np.asarray(store.sentences)
    begin, end = bounds[chosen], bounds[chosen + 1]
    sentence = np.minimum(begin + draw.integers(example, end - begin, "pairs.sentence"), len(edges) - 2)
    start = edges[sentence]
    last = np.searchsorted(edges, start + wanted, side="left")
    last = np.minimum(np.maximum(last, np.minimum(sentence + 1, end)), end)
    return start, np.maximum(edges[last] - start, 0)


def swap_segments(pairs: PairTable, swapped: NDArray[np.bool_]) -> PairTable:
    """A and B exchanged where told."""
    return pairs._replace(
        first_start=np.where(swapped, pairs.second_start, pairs.first_start),
        first_length=np.where(swapped, pairs.second_length, pairs.first_length),
        second_start=np.where(swapped, pairs.first_start, pairs.second_start),
        second_length=np.where(swapped, pairs.first_length, pairs.second_length),
    )


def truncate_pairs(pairs: PairTable, budget: int, draw: Draw) -> PairTable:
    """Cut pairs to ``budget`` tokens: one token at a time from the longer (tie: B), front or back.

    In closed form: the longer one loses the difference first, then both in turn, B first; of r removals a
    binomial(r, 1/2) number is at the front, counted as the ones among r random bits.
    """
    first, second = pairs.first_length, pairs.second_length
    excess = np.maximum(first + second - budget, 0)
    alone = np.minimum(excess, np.abs(first - second))
    rest = excess - alone
    cut_first = np.where(first > second, alone, 0) + rest // 2
    cut_second = np.where(first > second, 0, alone) + (rest + 1) // 2
    front_first = coin_sum(cut_first, pairs.example_ids, "pairs.front.first", draw)
    front_second = coin_sum(cut_second, pairs.example_ids, "pairs.front.second", draw)
    return pairs._replace(
        first_start=pairs.first_start + front_first,
        first_length=first - cut_first,
        second_start=pairs.second_start + front_second,
        second_length=second - cut_second,
    )


def coin_sum(tosses: Ints, example: Ints, stream: str, draw: Draw) -> Ints:
    """Heads among ``tosses`` fair coins, per example."""
    heads = np.zeros(len(tosses), dtype=np.int64)
    word, some = 0, np.flatnonzero(tosses > 0)
    while some.size:
        bits = draw.at(example[some], np.full(len(some), word), stream)
        left = tosses[some] - 32 * word
        bits >>= np.maximum(32 - left, 0).astype(np.uint32)
        heads[some] += np.bitwise_count(bits)
        word, some = word + 1, some[left > 32]
    return heads


def plan_of_pairs(pairs: PairTable | None) -> Plan:
    """Two pieces per row; pairs with an empty segment are left out."""
    if pairs is None:
        none = np.zeros(0, dtype=np.int64)
        return Plan(
            none, none.astype(np.int32), none.astype(np.int8), np.zeros(1, np.int64), none, none.astype(np.int8)
        )
    full = (pairs.first_length > 0) & (pairs.second_length > 0)
    pairs = PairTable(*(field[full] for field in pairs))
    count = len(pairs.label)
    return Plan(
        piece_starts=np.stack([pairs.first_start, pairs.second_start], axis=1).reshape(-1),
        lengths=np.stack([pairs.first_length, pairs.second_length], axis=1).reshape(-1).astype(np.int32),
        piece_types=np.tile(np.array([0, 1], dtype=np.int8), count),
        offsets=np.arange(0, 2 * count + 1, 2, dtype=np.int64),
        documents=pairs.document_ids,
        row_labels=pairs.label.astype(np.int8),
    )
