"""BERT's and ALBERT's rows: pairs of segments of whole sentences."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.pairs import (
    PairTable,
    has_chunk,
    plan_of_pairs,
    random_second_segments,
    swap_segments,
    truncate_pairs,
)
from pretraining.layouts.sentences import SENTENCES_AT_ONCE, SentenceTable, document_slabs, follow_chain, sentence_table
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Share
from zoo.vocabulary import Vocabulary


class SentencePairs(Layout):
    """Two segments from one document or two, as BERT and ALBERT build them (create_pretraining_data.py).

    A document is cut into chunks of whole sentences that reach a target length: the whole row, or, for a
    share of the documents, a random shorter one. A chunk's first k sentences, k uniform, are segment A.

    - ``next_or_random``: B is a run of sentences from another document (label 1) for ``random_share`` of the
      chunks, and then the chunk's other sentences start the next chunk; else B is the rest of the chunk
      (label 0). Chunks of one sentence always get a random B.
    - ``ordered_or_swapped``: B is the rest of the chunk; for ``random_share`` the two are swapped (label 1).
      Chunks of one sentence get a random B, label 1, as in ALBERT's code.

    Pairs that are too long lose tokens from the longer segment, at its front or back with equal chance.

    Args:
        second: what the second segment is.
        short_seq_prob: share of documents, drawn anew each epoch, with a shorter target length.
        random_share: share of chunks of two and more sentences whose label is 1.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels"})
    portion = SENTENCES_AT_ONCE

    def __init__(
        self,
        second: Literal["next_or_random", "ordered_or_swapped"],
        short_seq_prob: Share = 0.1,
        random_share: Share = 0.5,
    ) -> None:
        for name, share in (("short_seq_prob", short_seq_prob), ("random_share", random_share)):
            if not 0.0 <= share <= 1.0:
                raise ZooError(f"SentencePairs: {name} is {share}; a share in [0, 1] is needed.")
        if second not in ("next_or_random", "ordered_or_swapped"):
            raise ZooError(f"SentencePairs: second is {second!r}; 'next_or_random' or 'ordered_or_swapped' would work.")
        self.second = second
        self.short_seq_prob = short_seq_prob
        self.random_share = random_share

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 5:
            raise ZooError(f"SentencePairs: rows of {length} tokens have no room for two segments; 5 is the least.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens."""
        check_documents(store, documents, "SentencePairs")
        check_special_tokens(vocabulary, "SentencePairs", cls=True, sep=True)
        self.check_length(length)
        self._check_pairs(store, documents, length)
        parts = [
            self._plan(store, documents, part, length, draw) for part in document_slabs(store, documents, self.portion)
        ]
        return Plan.concatenate(parts)

    def _check_pairs(self, store: Store, documents: Ints, length: int) -> None:
        """Raise ZooError if only random pairs, or none at all, could be made of the documents."""
        offsets = np.asarray(store.documents)
        counts = offsets[documents + 1] - offsets[documents]
        advice = (
            "Use pretraining.layouts.FullSentences (or Blocks) with the objective MaskedLM or CausalLM and without "
            "PairClassification"
        )
        if counts.max() < 2:
            raise ZooError(
                f"SentencePairs: each of the {len(documents)} documents of {store.path} is a single sentence; a pair "
                f"needs two. {advice}; or prepare the corpus with `sentences: rule`, and with a blank line between "
                "documents."
            )
        if len(documents) < 2 and self.second == "next_or_random":
            raise ZooError(
                f"SentencePairs: random second segments come from another document, but {store.path} offers a single "
                f"one here. Put blank lines between documents; or use second: ordered_or_swapped. {advice} otherwise."
            )
        if not any(
            has_chunk(sentence_table(store, part), length - 3)
            for part in document_slabs(store, documents, self.portion)
        ):
            raise ZooError(
                f"SentencePairs: no row of {length} tokens holds two consecutive sentences of one document, so every "
                f"pair would be a random one. Shorten the sentences (`sentences: rule`) or lengthen the rows. {advice} "
                "otherwise."
            )

    def _plan(self, store: Store, all_documents: Ints, documents: Ints, length: int, draw: Draw) -> Plan:
        sentences = sentence_table(store, documents)
        if not len(sentences.starts):
            return plan_of_pairs(None)
        targets = self.targets(documents, length - 3, draw)
        first = np.arange(len(sentences.starts))
        ends, middles, is_random, label = self._chunks(sentences, targets, first, draw)
        chain = follow_chain(np.where(is_random, middles, ends))
        end, middle, random = ends[chain], middles[chain], is_random[chain]
        first_length = sentences.tokens[middle] - sentences.tokens[chain]
        second_start = sentences.starts[np.minimum(middle, len(sentences.starts) - 1)]
        second_length = sentences.tokens[end] - sentences.tokens[middle]
        example = sentences.number[chain]
        document = documents[sentences.place[chain]]
        wanted = targets[sentences.place[chain]] - first_length
        start, size = random_second_segments(
            store, all_documents, example[random], document[random], wanted[random], draw
        )
        second_start[random], second_length[random] = start, size
        pairs = PairTable(
            sentences.starts[chain], first_length, second_start, second_length, label[chain], example, document
        )
        if self.second == "ordered_or_swapped":
            pairs = swap_segments(pairs, (pairs.label == 1) & ~random)
        if len(all_documents) < 2:  # nothing to draw the residue from
            pairs = PairTable(*(field[~random] for field in pairs))
        return plan_of_pairs(truncate_pairs(pairs, length - 3, draw))

    def targets(self, documents: Ints, budget: int, draw: Draw) -> Ints:
        """(D,) tokens at which a chunk of each document is complete, at most ``budget``; drawn once per pass."""
        short = draw.uniform(documents, "pairs.short") < self.short_seq_prob
        return np.where(short, 2 + draw.integers(documents, budget - 1, "pairs.target"), budget)

    def _chunks(
        self, sentences: SentenceTable, targets: Ints, first: Ints, draw: Draw
    ) -> tuple[Ints, Ints, NDArray[np.bool_], Ints]:
        """For every sentence as the start of a chunk: its end, the first sentence of B, whether B is random, label."""
        tokens = sentences.tokens
        reach = np.searchsorted(tokens, tokens[:-1] + targets[sentences.place], side="left")
        ends = np.minimum(np.maximum(reach, first + 1), sentences.bounds[sentences.place + 1])
        count = ends - first
        inner = draw.integers(sentences.number, np.maximum(count - 1, 1), "pairs.split") + 1
        middles = first + np.where(count > 1, inner, 1)
        tossed = draw.uniform(sentences.number, "pairs.label") < self.random_share
        single = count == 1
        is_random = single | tossed if self.second == "next_or_random" else single
        return ends, middles, is_random, (single | tossed).astype(np.int64)

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)
