"""How documents become rows: contiguous blocks, full sentences, sentence pairs.

A row is one or more *pieces*: runs of consecutive tokens of the store. Sentence pairs and full sentences
open with the tokenizer's ``cls`` and put its ``sep`` behind every piece; ``length`` counts these too.

Rows follow each other as a chain: where a row starts depends on where the one before it ended. So the
successor is computed for *every* possible start at once, vectorised, with draws keyed by the start; walking
the chain is then one list lookup per row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens, take_rows
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.sentences import sentence_table
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

# --- the layouts -----------------------------------------------------------------------------------


class Blocks(Layout):
    """Contiguous windows of ``length`` tokens over the concatenated documents (GPT, section 4.1).

    Every token is in exactly one window. Windows of a single token are left out: nothing could be
    predicted there.

    Args:
        separate_documents: windows do not cross a document's end; its last window may be shorter.
        separator: the separator token follows every document and counts as a token of the text.
        shift: the first window is cut at a random place, a new one in every epoch, so that windows do
            not end at the same tokens each time.
        separator_after: ``sentences``: the separator follows every sentence instead.
    """

    def __init__(
        self,
        separate_documents: bool = False,
        separator: bool = False,
        shift: bool = False,
        separator_after: Literal["documents", "sentences"] = "documents",
    ) -> None:
        self.separate_documents = separate_documents
        self.separator = separator
        self.shift = shift
        self.separator_after = separator_after

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 2:
            raise ZooError(f"Blocks: rows of {length} tokens hold nothing to predict; at least 2 are needed.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Windows of exactly ``length`` tokens, except at the ends."""
        check_documents(store, documents, "Blocks")
        check_special_tokens(vocabulary, "Blocks with separator: true", cls=False, sep=self.separator)
        self.check_length(length)
        first, texts, owner = self._units(store, documents)
        unit_edges = np.append(
            0, np.cumsum(texts + int(self.separator))
        )  # where each unit starts in the text, and the end
        cuts = self._cuts(unit_edges[np.searchsorted(owner, np.append(documents, documents[-1] + 1))], length, draw)
        edges = np.unique(np.concatenate([cuts, unit_edges]))
        starts, sizes = edges[:-1], np.diff(edges)
        place = np.searchsorted(unit_edges, starts, side="right") - 1
        closes = np.zeros(len(starts), dtype=bool)
        if self.separator:
            closes = edges[1:] == unit_edges[place + 1]
        plan_offsets = np.searchsorted(starts, cuts)
        lengths = np.diff(cuts)
        plan = Plan(
            piece_starts=first[place] + starts - unit_edges[place],
            lengths=(sizes - closes).astype(np.int32),
            piece_types=np.zeros(len(starts), dtype=np.int8),
            offsets=plan_offsets,
            documents=owner[place[plan_offsets[:-1]]],
            separators=closes,
        )
        return take_rows(plan, np.flatnonzero(lengths > 1))

    def _units(self, store: Store, documents: Ints) -> tuple[Ints, Ints, Ints]:
        """(U,) first token, tokens and document of what a separator follows: documents, or their sentences."""
        if self.separator and self.separator_after == "sentences":
            sentences = sentence_table(store, documents)
            return sentences.starts, np.diff(sentences.tokens), documents[sentences.place]
        offsets = store.document_tokens()
        return offsets[documents], offsets[documents + 1] - offsets[documents], documents

    def _cuts(self, edges: Ints, length: int, draw: Draw) -> Ints:
        """Places of the text at which windows start, and the end; ``edges`` is where documents start, and the end."""
        if not self.separate_documents:
            first = np.zeros(1, dtype=np.int64)
            shift = int(draw.integers(first, length, "layout.shift")[0]) if self.shift else 0
            inner = np.arange(shift or length, edges[-1], length)
            return np.concatenate([first, inner, edges[-1:]])
        starts, sizes = edges[:-1], np.diff(edges)
        shifts = np.zeros_like(starts)
        if self.shift:
            shifts = draw.integers(np.arange(len(starts)), length, "layout.shift")
        first_size = np.where(shifts == 0, length, shifts)
        more = np.maximum(-(-(sizes - first_size) // length), 0)
        later = np.repeat(starts + first_size, more) + ragged_ranges(np.zeros_like(more), more) * length
        return np.unique(np.concatenate([edges, later]))

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named windows."""
        return build_examples(store, plan, indices, length, vocabulary, opens=False)
