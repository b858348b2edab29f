"""Rows packed with whole sentences (RoBERTa's FULL-SENTENCES)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.sentences import SENTENCES_AT_ONCE, cut_long, document_slabs, follow_chain, sentence_table
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary


class FullSentences(Layout):
    """Whole sentences, one after the other, while they fit (RoBERTa section 4.2).

    A row is ``cls``, then for each document it touches the sentences taken from it and one ``sep``: every row
    begins with ``cls``, ends with ``sep``, and a separator stands between documents. (fairseq also puts one
    behind each line, its unit of text; here a line is not a unit.) A sentence too long for a row of its own is
    cut into parts, which are then treated as sentences; no other sentence is split, and no token is lost. Rows
    also end after every two million sentences or so, where the plan is made in portions.

    Args:
        cross_documents: rows may cross document ends (FULL-SENTENCES); false = DOC-SENTENCES.
        separator_between_documents: put a separator between documents inside a row, not only at its end.
    """

    portion = SENTENCES_AT_ONCE

    def __init__(self, cross_documents: bool = True, separator_between_documents: bool = True) -> None:
        self.cross_documents = cross_documents
        self.separator_between_documents = separator_between_documents

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 3:
            raise ZooError(f"FullSentences: rows of {length} tokens have no room for text beside cls and sep.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        check_documents(store, documents, "FullSentences")
        check_special_tokens(vocabulary, "FullSentences", cls=True, sep=True)
        self.check_length(length)
        return Plan.concatenate(
            [self._plan(store, part, length) for part in document_slabs(store, documents, self.portion)]
        )

    def _plan(self, store: Store, documents: Ints, length: int) -> Plan:
        units = cut_long(sentence_table(store, documents), length - 2)
        separators = units.place if self.separator_between_documents else np.zeros_like(units.place)
        cost_end = units.tokens[1:] + separators
        successor = np.searchsorted(cost_end, units.tokens[:-1] + separators + length - 2, side="right")
        if not self.cross_documents:
            successor = np.minimum(successor, units.bounds[units.place + 1])
        chain = follow_chain(successor)
        cuts = np.append(chain, len(units.starts))
        edges = np.unique(np.concatenate([cuts, units.bounds]))
        firsts = edges[:-1]
        sizes = units.tokens[edges[1:]] - units.tokens[firsts]
        full = sizes > 0  # documents without a token leave no piece
        row = np.searchsorted(chain, firsts, side="right") - 1
        firsts, sizes, row = firsts[full], sizes[full], row[full]
        counts = np.unique(row, return_counts=True)[1]
        closes = np.ones(len(firsts), dtype=bool)
        if not self.separator_between_documents:
            closes[:-1] = row[1:] != row[:-1]
        offsets = np.append(0, np.cumsum(counts))
        return Plan(
            piece_starts=units.starts[firsts],
            lengths=sizes.astype(np.int32),
            piece_types=np.zeros(len(firsts), dtype=np.int8),
            offsets=offsets,
            documents=documents[units.place[firsts[offsets[:-1]]]],
            separators=closes,
        )

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)
