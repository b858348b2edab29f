"""The sentences of documents as a table, cut to a length, and documents in portions that bound memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pretraining.arrays import Ints, ragged_ranges
from pretraining.store.token_store import Store

SENTENCES_AT_ONCE = 2_000_000  # planned together, which bounds the memory of a plan under way


def document_slabs(store: Store, documents: Ints, sentences: int = SENTENCES_AT_ONCE) -> Iterator[Ints]:
    """The documents in portions of about so many ``sentences``."""
    offsets = np.asarray(store.documents)
    total = np.cumsum(offsets[documents + 1] - offsets[documents])
    cuts = np.unique(np.searchsorted(total, np.arange(sentences, total[-1], sentences)))
    yield from (part for part in np.split(documents, cuts) if len(part))


def follow_chain(successor: Ints) -> Ints:
    """0, successor[0], successor[successor[0]], ... until the end is reached."""
    following, end, here = successor.tolist(), len(successor), 0
    found = []
    while here < end:
        found.append(here)
        here = following[here]
    return np.array(found, dtype=np.int64)


class SentenceTable(NamedTuple):
    """Sentences of some documents, numbered without gaps. S sentences, D documents.

    Args:
        starts: (S,) store token at which each begins.
        tokens: (S + 1,) tokens before each.
        number: (S,) number in the store.
        place: (S,) document each belongs to, 0 .. D - 1.
        bounds: (D + 1,) first sentence of each document.
    """

    starts: Ints
    tokens: Ints
    number: Ints
    place: Ints
    bounds: Ints


def sentence_table(store: Store, documents: Ints) -> SentenceTable:
    """The sentences of some documents, in their order."""
    offsets = np.asarray(store.documents)
    counts = offsets[documents + 1] - offsets[documents]
    number = ragged_ranges(offsets[documents], counts)
    edges = np.asarray(store.sentences)
    starts = edges[number]
    return SentenceTable(
        starts=starts,
        tokens=np.append(0, np.cumsum(edges[number + 1] - starts)),
        number=number,
        place=np.repeat(np.arange(len(documents)), counts),
        bounds=np.append(0, np.cumsum(counts)),
    )


def cut_long(sentences: SentenceTable, longest: int) -> SentenceTable:
    """Sentences of more than ``longest`` tokens cut into consecutive parts of at most that many."""
    lengths = np.diff(sentences.tokens)
    parts = np.maximum(-(-lengths // longest), 1)
    if (parts == 1).all():
        return sentences
    within = ragged_ranges(np.zeros(len(parts), dtype=np.int64), parts)
    part_lengths = np.minimum(np.repeat(lengths, parts) - within * longest, longest)
    bounds = np.append(0, np.cumsum(parts))[sentences.bounds]
    return SentenceTable(
        starts=np.repeat(sentences.starts, parts) + within * longest,
        tokens=np.append(0, np.cumsum(part_lengths)),
        number=np.repeat(sentences.number, parts),
        place=np.repeat(sentences.place, parts),
        bounds=bounds,
    )
