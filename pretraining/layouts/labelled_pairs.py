"""Layouts that ask about a document's structure or about labelled pairs: ERNIE 2.0's tasks (specs: ERNIE 2.0, 3).

Each gives every row a class (``row_labels``), read by :class:`pretraining.objectives.RowClassification`, or every token
one (an array, class + 1), read by :class:`pretraining.objectives.TokenClassification`.
"""

from __future__ import annotations

import itertools
import os
import sys

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import Document, iter_documents
from pretraining.corpus.sources import resolve_sources
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.store.token_store import Store
from pretraining.text.sentences import sentence_spans
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

# --- labelled pairs: discourse relation, relevance --------------------------------------------------


class LabelledPairs(Layout):
    """One row for each record: a text or a pair of texts, and the class that the corpus gives it.

    A record is a document of one or two sentences (a text field that is a string, or a list of two strings, in a
    corpus with ``sentences: line``); its class is an array of the store with class + 1 at each of its tokens, made by
    ``annotations`` of the corpus. Records without a class are left out; a pair of two classes is an error. Pairs that
    are too long lose tokens from the longer text, at its end. What looks like a mistake is said once on standard error:
    that there are texts among pairs, or that fewer than half of the classes occur.

    Args:
        label: name of the array.
        balanced: as many rows of each class that occurs: in every epoch other records of frequent classes, and those of
            rare ones several times. The number of rows stays that of the records.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels"})

    def __init__(self, label: str = "label", balanced: bool = False) -> None:
        self.label, self.balanced, self.required_fields = label, balanced, frozenset({label})
        self._said: set[str] = set()

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 5:
            raise ZooError(f"LabelledPairs: rows of {length} tokens have no room for two texts; 5 is the least.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        check_documents(store, documents, "LabelledPairs")
        check_special_tokens(vocabulary, "LabelledPairs", cls=True, sep=True)
        self.check_length(length)
        if self.label not in store.arrays:
            raise ZooError(
                f"LabelledPairs: {store.path} has no array {self.label!r} with the records' classes (it has "
                f"{', '.join(store.arrays) or 'none'}). The corpus needs `annotations: {{{self.label}: {{class_path: "
                "pretraining.annotations.RecordField}}}}` and records with that field, one JSON object per line."
            )
        offsets = np.asarray(store.documents)
        counts = offsets[documents + 1] - offsets[documents]
        if counts.max() > 2:
            raise _more_than_two(store, documents, counts, self.label)
        documents = documents[counts > 0]
        edges = np.asarray(store.sentences)
        classes = np.asarray(store.arrays[self.label][edges[offsets[documents]]]).astype(np.int64)
        self._one_class(store, documents, classes)
        documents, label = documents[classes > 0], classes[classes > 0] - 1
        if not len(documents):
            raise ZooError(
                f"LabelledPairs: none of the {len(classes)} records of {_source(store)} has a class; each needs a "
                f"value in its field {self.label!r}."
            )
        self._say_what_is_odd(store, offsets[documents + 1] - offsets[documents], label)
        if self.balanced:
            chosen = _balance(label, draw)
            documents, label = documents[chosen], label[chosen]
        first = offsets[documents]
        return self._plan(edges, first, offsets[documents + 1] - first, documents, label, length)

    def _one_class(self, store: Store, documents: Ints, classes: Ints) -> None:
        """Raise ZooError if the two texts of a pair have different classes, of which one would be forgotten."""
        offsets = np.asarray(store.documents)
        pair = np.flatnonzero(offsets[documents + 1] - offsets[documents] == 2)
        second = np.asarray(store.arrays[self.label][np.asarray(store.sentences)[offsets[documents[pair]] + 1]])
        if len(wrong := np.flatnonzero(second != classes[pair])):
            record, one, other = int(documents[pair[wrong[0]]]), int(classes[pair[wrong[0]]]), int(second[wrong[0]])
            raise ZooError(
                f"LabelledPairs: {_place(store, record)[0]} gives its two texts the classes {one - 1} and {other - 1} "
                f"in {self.label!r} ({len(wrong):,} of {len(pair):,} pairs do so). A pair has one class: a value, "
                "not a list of them."
            )

    def _say_what_is_odd(self, store: Store, counts: Ints, label: Ints) -> None:
        """One line each, once for a store and not by every process; nothing of a text that is only shown."""
        if not _prepared(store):
            return
        odd, single = {}, int((counts == 1).sum())
        if 0 < single < len(counts):
            odd["single"] = f"{single:,} of {len(counts):,} records are one text, all others pairs"
        total, present = _number_of_classes(store, self.label), len(np.unique(label))
        if total is not None and 2 * present < total:
            odd["classes"] = f"{len(counts):,} records have {present} of the {total} classes; the others never occur"
        for what, text in odd.items():
            key = f"{what} {store.path}"
            if key not in self._said and os.environ.get("RANK", "0") == "0":
                print(f"LabelledPairs: {_source(store)}: {text}", file=sys.stderr, flush=True)
            self._said.add(key)

    @staticmethod
    def _plan(edges: Ints, first: Ints, counts: Ints, documents: Ints, label: Ints, length: int) -> Plan:
        pair = counts == 2
        a = edges[first + 1] - edges[first]
        b = np.where(pair, edges[np.minimum(first + 2, len(edges) - 1)] - edges[first + 1], 0)
        budget = length - 2 - pair
        b = np.minimum(b, np.maximum(budget - a, budget // 2))  # the longer text is cut, then both to a half
        a = np.minimum(a, budget - b)
        used = np.stack([np.ones_like(pair), pair], axis=1)
        starts = np.stack([edges[first], edges[first + 1]], axis=1)
        return Plan(
            piece_starts=starts[used],
            lengths=np.stack([a, b], axis=1)[used].astype(np.int32),
            piece_types=np.tile(np.array([0, 1], dtype=np.int8), (len(pair), 1))[used],
            offsets=np.append(0, np.cumsum(counts)),
            documents=documents,
            row_labels=label.astype(np.int32),
        )

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named records: ``cls A sep`` or ``cls A sep B sep``, types 1 for ``B sep``."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)


def _prepared(store: Store) -> bool:
    """Whether a store lies on the disk; one that is put together in memory has the recipe of its first part."""
    return (store.path / "meta.json").exists()


def _source(store: Store) -> str:
    """The files that a store was made from, or else its folder."""
    files = (_prepared(store) and store.meta.get("source")) or str(store.path)
    return files if isinstance(files, str) else ", ".join(files)


def _number_of_classes(store: Store, name: str) -> int | None:
    """Classes that an annotation of the corpus says that there are, where the store knows."""
    own = store.meta.get("recipe", {}).get("annotations", {}).get(name, {})
    values = own.get("arguments", {}).get("values")
    return len(values) if isinstance(values, list) else values


def _place(store: Store, record: int) -> tuple[str, Document | None]:
    """Where a document of a store was read: ``FILE:LINE`` and the document, where the file still has it.

    A store keeps no lines: its text is read again up to there, and has to have as many sentences.
    """
    place, recipe = f"record {record + 1:,} of {_source(store)}", store.meta.get("recipe")
    if not recipe or not _prepared(store):
        return place, None
    config = CorpusConfig(store.meta["source"], text_field=recipe["text_field"])
    try:
        if any(source.kind == "hub" for source in resolve_sources(config)):
            return place, None
        whole = (document for document in iter_documents(config) if not document.continues)
        found = next(itertools.islice(whole, record, None), None)
    except ZooError:
        return place, None
    if found is None:
        return place, None
    by_rule = recipe["sentences"][0] == "rule" and not found.listed
    count = sum(len(sentence_spans(line)) for line in found.lines) if by_rule else len(found.lines)
    same = count == store.documents[record + 1] - store.documents[record]
    return (f"{found.file}:{found.line}", found) if same else (place, None)


def _more_than_two(store: Store, documents: Ints, counts: Ints, label: str) -> ZooError:
    """What is said of the first record that is neither a text nor a pair."""
    record = int(documents[np.argmax(counts > 2)])
    place, document = _place(store, record)
    sentences = store.meta.get("recipe", {}).get("sentences", [None])[0]
    needed = 'A pair is a list of two strings, {"text": [FIRST, SECOND]}, a single text one string without line ends.'
    if sentences != "line" and not (document and document.listed):
        ruled = " (it has `sentences: rule`)" if sentences else ""
        needed = f"Say `sentences: line` for this corpus{ruled}. {needed}"
    count = int(store.documents[record + 1] - store.documents[record])
    return ZooError(
        f"LabelledPairs (array {label!r}): {place} has {count} sentences ({int((counts > 2).sum()):,} of "
        f"{len(counts):,} records have more than two); one text or a pair of them is needed. {needed}"
    )


def _balance(label: Ints, draw: Draw) -> Ints:
    """Records, ascending, as many of each class: each as often as any other of its class, but for one time."""
    present = np.unique(label)
    chosen = []
    for one in present.tolist():
        own = np.flatnonzero(label == one)
        order = own[draw.permutation(len(own), f"pairs.balance.{one}")]
        chosen.append(np.resize(order, max(len(label) // len(present), 1)))
    return np.sort(np.concatenate(chosen))
