"""Two sentences; the label says how far apart they stand (ERNIE 2.0)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.pairs import PairTable, plan_of_pairs, truncate_pairs
from pretraining.layouts.sentences import SentenceTable, document_slabs, sentence_table
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

# --- sentence distance -------------------------------------------------------------------------------


class SentenceDistance(Layout):
    """Two sentences and how far apart they stand (ERNIE 2.0, sentence distance).

    Class 0: the second follows the first in its document; 1: it stands elsewhere in that document, not beside the
    first; 2: it comes from another one. A third of the rows each (the paper states no shares). Every sentence of
    which all three can be made is the first of a row once in an epoch; the last of a document and those of documents
    without a sentence that is not adjacent are left out, so that the first sentence says nothing about the class.
    Pairs that are too long lose tokens from the longer sentence, at its front or back with equal chance.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels"})

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 5:
            raise ZooError(f"SentenceDistance: rows of {length} tokens have no room for two sentences; 5 is the least.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens."""
        check_documents(store, documents, "SentenceDistance")
        check_special_tokens(vocabulary, "SentenceDistance", cls=True, sep=True)
        self.check_length(length)
        offsets = np.asarray(store.documents)
        documents = documents[offsets[documents + 1] > offsets[documents]]
        counts = offsets[documents + 1] - offsets[documents]
        if len(documents) < 2 or counts.max() < 3:
            raise ZooError(
                f"SentenceDistance: {len(documents)} documents of at most {counts.max()} sentences in {store.path}; it "
                "needs two documents, and one with three sentences. Put blank lines between documents, and use "
                "`sentences: rule`; or leave the task out."
            )
        parts = [self._plan(store, documents, part, length, draw) for part in document_slabs(store, documents)]
        return Plan.concatenate(parts)

    def _plan(self, store: Store, everywhere: Ints, documents: Ints, length: int, draw: Draw) -> Plan:
        sentences = sentence_table(store, documents)
        place, count = self._candidates(sentences)
        number, document = sentences.number[place], documents[sentences.place[place]]
        within = place - sentences.bounds[sentences.place[place]]
        label = draw.integers(number, 3, "distance.label")
        far = draw.integers(number, count - 2 - (within > 0), "distance.far")
        # The sentences that are not adjacent, counted without the first and its neighbours.
        far = np.where(far < np.maximum(within - 1, 0), far, far + 2 + (within > 0))
        second = np.where(label == 0, number + 1, number - within + far)
        other = label == 2
        second[other] = self._elsewhere(store, everywhere, number[other], document[other], draw)
        edges = np.asarray(store.sentences)
        pairs = PairTable(
            first_start=edges[number],
            first_length=edges[number + 1] - edges[number],
            second_start=edges[second],
            second_length=edges[second + 1] - edges[second],
            label=label,
            example_ids=number,
            document_ids=document,
        )
        return plan_of_pairs(truncate_pairs(pairs, length - 3, draw))

    @staticmethod
    def _candidates(sentences: SentenceTable) -> tuple[Ints, Ints]:
        """Sentences with a next one and one that is not adjacent; and how many their document has."""
        number = np.arange(len(sentences.starts))
        within = number - sentences.bounds[sentences.place]
        count = np.diff(sentences.bounds)[sentences.place]
        wanted = (within < count - 1) & (count - 2 - (within > 0) > 0)
        return number[wanted], count[wanted]

    @staticmethod
    def _elsewhere(store: Store, documents: Ints, example: Ints, own: Ints, draw: Draw) -> Ints:
        """A sentence of another document, uniform over the other documents and then over its sentences."""
        drawn = draw.integers(example, len(documents) - 1, "distance.document")
        chosen = documents[drawn + (drawn >= np.searchsorted(documents, own))]
        offsets = np.asarray(store.documents)
        begin, end = offsets[chosen], offsets[chosen + 1]
        return begin + draw.integers(example, end - begin, "distance.sentence")

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)
