"""Layouts that ask about a document's structure or about labelled pairs: ERNIE 2.0's tasks (specs: ERNIE 2.0, 3).

Each gives every row a class (``pair_label``), read by :class:`pretraining.objectives.RowClassification`, or every token
one (an array, class + 1), read by :class:`pretraining.objectives.TokenClassification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numpy.typing import NDArray
from pretraining.arrays import Ints
from pretraining.arrays import ragged_ranges
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import Document
from pretraining.corpus.records import iter_documents
from pretraining.corpus.sources import resolve_sources
from pretraining.layout import Layout
from pretraining.layout import Plan
from pretraining.layouts import FullSentences
from pretraining.layouts import _Pairs
from pretraining.layouts import _Sentences
from pretraining.layouts import _check_documents
from pretraining.layouts import _check_template
from pretraining.layouts import _pairs_to_plan
from pretraining.layouts import _sentences
from pretraining.layouts import _slabs
from pretraining.layouts import _truncate
from pretraining.layouts import concatenate
from pretraining.layouts import gather
from pretraining.layouts import select
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from pretraining.text.sentences import sentence_spans
from pretraining.tokenizer.flags import WORD_START
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary
import itertools
import math
import numpy as np
import os
import sys

_MOST_SEGMENTS = 6  # 873 classes; one more would make 5,913


# --- permutations as classes -------------------------------------------------------------------------


def reordering_classes(most: int) -> list[tuple[int, ...]]:
    """Every order of 1 to ``most`` segments, by class: shorter ones first, then in lexicographic order.

    Segment number p of class c's row is segment ``reordering_classes(most)[c][p]`` of the text. There are
    k = sum of n! for n = 1 .. ``most`` classes (specs: ERNIE 2.0, section 3); class 0 is a single segment.
    """
    return [order for n in range(1, most + 1) for order in itertools.permutations(range(n))]


def reordering_class(order: Sequence[int]) -> int:
    """Class of an order: sum of j! for j below n, plus its lexicographic rank."""
    n = len(order)
    rank = sum(
        sum(later < here for later in order[place + 1 :]) * math.factorial(n - 1 - place)
        for place, here in enumerate(order)
    )
    return sum(map(math.factorial, range(1, n))) + rank


# --- sentence reordering -----------------------------------------------------------------------------


class ReorderedSegments(Layout):
    """A stretch of a document in 1 to ``max_segments`` segments, in any order (ERNIE 2.0, sentence reordering).

    A document is cut into stretches of whole sentences that fill a row. A stretch is cut at random places into n
    segments, n drawn by ``shares``; these are put in a random one of their n! orders. The row is ``cls``, the segments
    one after the other without anything between them, ``sep``. Its class is the order's
    (:func:`reordering_classes`). Segments are whole sentences; in a stretch of fewer than ``max_segments`` sentences
    they are whole words, because n would otherwise depend on how long sentences are.

    Args:
        max_segments: m; there are sum of n! for n = 1 .. m classes: 3, 9, 33 or 153 for 2, 3, 4 or 5.
        shares: relative frequency of n = 1 .. m; absent = all alike. The paper states none.
    """

    provides = frozenset({"token_type_ids", "pair_label", "segment"})

    def __init__(self, max_segments: int = 3, shares: list[float] | None = None) -> None:
        if not 2 <= max_segments <= _MOST_SEGMENTS:
            raise ZooError(f"ReorderedSegments: max_segments is {max_segments}; 2 to {_MOST_SEGMENTS} would work.")
        if shares is not None and (len(shares) != max_segments or min(shares) < 0 or sum(shares) <= 0):
            raise ZooError(
                f"ReorderedSegments: shares = {shares}; one number for each of 1 to {max_segments} segments is needed, "
                "none below 0 and not all of them 0."
            )
        self.max_segments = max_segments
        self._thresholds = np.cumsum(shares or [1.0] * max_segments) / sum(shares or [1.0] * max_segments)
        orders = reordering_classes(max_segments)
        self._orders = np.array([[*order, *range(len(order), max_segments)] for order in orders], dtype=np.int64)
        self._first = np.array([reordering_class(range(n)) for n in range(1, max_segments + 1)])
        self._count = np.array([math.factorial(n) for n in range(1, max_segments + 1)])

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        stretches = FullSentences(cross_documents=False).plan(store, documents, length, vocabulary, draw)
        start, size = stretches.starts, stretches.lengths.astype(np.int64)  # a row has a single piece
        row, place = self._candidates(store, start, size)
        kept = np.bincount(row, minlength=len(start)) >= self.max_segments - 1
        if not kept.any():
            raise ZooError(
                f"ReorderedSegments: no row of {length} tokens of {store.path} has {self.max_segments} words, so none "
                f"can be cut into {self.max_segments} segments. Lengthen the rows, or take a smaller max_segments."
            )
        row, place = (np.cumsum(kept) - 1)[row[kept[row]]], place[kept[row]]
        start, size = start[kept], size[kept]
        label = self._labels(start, draw)
        return self._plan(self._edges(start, size, row, place, label, draw), label, stretches.documents[kept])

    def _candidates(self, store: Store, start: Ints, size: Ints) -> tuple[Ints, Ints]:
        """Stretch and token of every place where one can be cut, ascending: sentence ends, or else word starts."""
        edges = np.asarray(store.sentences)
        first = np.searchsorted(edges, start, side="right")
        inner = np.searchsorted(edges, start + size, side="left") - first  # sentence ends strictly inside
        enough = inner >= self.max_segments - 1
        by_sentence = np.repeat(np.flatnonzero(enough), inner[enough])
        ends = edges[ragged_ranges(first[enough], inner[enough])]
        few = np.flatnonzero(~enough)
        words = ragged_ranges(start[few] + 1, size[few] - 1)
        opens = (np.asarray(store.flags)[words] & WORD_START) != 0
        by_word = np.repeat(few, size[few] - 1)[opens]
        row, place = np.concatenate([by_sentence, by_word]), np.concatenate([ends, words[opens]])
        order = np.argsort(row, kind="stable")
        return row[order], place[order]

    def _labels(self, example: Ints, draw: Draw) -> Ints:
        """(R,) class of each stretch: a number of segments by ``shares``, then one of its orders."""
        number = np.searchsorted(self._thresholds, draw.uniform(example, "reorder.segments"), side="right")
        number = np.minimum(number, self.max_segments - 1)
        return self._first[number] + draw.integers(example, self._count[number], "reorder.order")

    def _sizes(self, label: Ints) -> Ints:
        """(R,) segments of each class."""
        return np.searchsorted(self._first, label, side="right")

    def _edges(self, start: Ints, size: Ints, row: Ints, place: Ints, label: Ints, draw: Draw) -> Ints:
        """(R, m + 1) tokens at which the segments begin, the stretch's end in all places that are left.

        Of the places of a stretch the n - 1 with the lowest keys are cut: a uniform choice.
        """
        count = np.bincount(row, minlength=len(start))
        rank = np.empty(len(row), dtype=np.int64)
        rank[np.lexsort((draw.keys(place, "reorder.cuts"), row))] = ragged_ranges(np.zeros_like(count), count)
        cuts = self._sizes(label) - 1
        cut = rank < cuts[row]
        edges = np.repeat((start + size)[:, None], self.max_segments + 1, axis=1)
        edges[:, 0] = start
        edges[row[cut], ragged_ranges(np.ones_like(cuts), cuts)] = place[cut]  # both go row by row, places ascending
        return edges

    def _plan(self, edges: Ints, label: Ints, documents: Ints) -> Plan:
        """Pieces in their new order; a separator stands behind the last one only."""
        size = self._sizes(label)
        order = self._orders[label]
        row = np.arange(len(label))[:, None]
        starts, lengths = edges[row, order], edges[row, order + 1] - edges[row, order]
        used = np.arange(self.max_segments)[None, :] < size[:, None]
        closes = np.arange(self.max_segments)[None, :] == (size - 1)[:, None]
        return Plan(
            starts=starts[used],
            lengths=lengths[used].astype(np.int32),
            types=np.zeros(int(size.sum()), dtype=np.int8),
            offsets=np.append(0, np.cumsum(size)),
            documents=documents,
            pair_label=label.astype(np.int16),
            separators=closes[used],
        )

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named rows; the array ``segment`` has the number of each token's segment in the text, from 1."""
        rows = gather(store, plan, indices, length, vocabulary, opens=True)
        assert plan.pair_label is not None
        label = plan.pair_label[indices].astype(np.int64)
        size = self._sizes(label)
        used = np.arange(self.max_segments)[None, :] < size[:, None]
        pieces = ragged_ranges(plan.offsets[indices], size)
        segment = np.zeros(rows.shape, dtype=np.uint8)
        segment[~rows.special] = np.repeat(self._orders[label][used] + 1, plan.lengths[pieces])
        return rows.replace(arrays={**rows.arrays, "segment": segment})


# --- sentence distance -------------------------------------------------------------------------------


class SentenceDistance(Layout):
    """Two sentences and how far apart they stand (ERNIE 2.0, sentence distance).

    Class 0: the second follows the first in its document; 1: it stands elsewhere in that document, not beside the
    first; 2: it comes from another one. A third of the rows each (the paper states no shares). Every sentence of
    which all three can be made is the first of a row once in an epoch; the last of a document and those of documents
    without a sentence that is not adjacent are left out, so that the first sentence says nothing about the class.
    Pairs that are too long lose tokens from the longer sentence, at its front or back with equal chance.
    """

    provides = frozenset({"token_type_ids", "pair_label"})

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens."""
        _check_documents(store, documents, "SentenceDistance")
        _check_template(vocabulary, "SentenceDistance", cls=True, sep=True)
        if length < 5:
            raise ZooError(f"SentenceDistance: rows of {length} tokens have no room for two sentences; 5 is the least.")
        offsets = np.asarray(store.documents)
        documents = documents[offsets[documents + 1] > offsets[documents]]
        counts = offsets[documents + 1] - offsets[documents]
        if len(documents) < 2 or counts.max() < 3:
            raise ZooError(
                f"SentenceDistance: {len(documents)} documents of at most {counts.max()} sentences in {store.path}; it "
                "needs two documents, and one with three sentences. Put blank lines between documents, and use "
                "`sentences: rule`; or leave the task out."
            )
        parts = [self._plan(store, documents, part, length, draw) for part in _slabs(store, documents)]
        return concatenate(parts)

    def _plan(self, store: Store, everywhere: Ints, documents: Ints, length: int, draw: Draw) -> Plan:
        sentences = _sentences(store, documents)
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
        pairs = _Pairs(
            first_start=edges[number],
            first_length=edges[number + 1] - edges[number],
            second_start=edges[second],
            second_length=edges[second + 1] - edges[second],
            label=label,
            example=number,
            document=document,
        )
        return _pairs_to_plan(_truncate(pairs, length - 3, draw))

    @staticmethod
    def _candidates(sentences: _Sentences) -> tuple[Ints, Ints]:
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

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return gather(store, plan, indices, length, vocabulary, opens=True)


# --- labelled pairs: discourse relation, relevance --------------------------------------------------


class LabelledPairs(Layout):
    """One row for each record: a text or a pair of texts, and the class that the corpus gives it.

    A record is a document of one or two sentences (a text field that is a string, or a list of two strings, in a
    corpus with ``sentences: line``); its class is an array of the store with class + 1 at each of its tokens, made by
    ``annotations`` of the corpus. Records without a class are left out; a pair of two classes is refused. Pairs that
    are too long lose tokens from the longer text, at its end. What looks like a mistake is said once on standard error:
    that there are texts among pairs, or that fewer than half of the classes occur.

    Args:
        label: name of the array.
        balanced: as many rows of each class that occurs: in every epoch other records of frequent classes, and those of
            rare ones several times. The number of rows stays that of the records.
    """

    provides = frozenset({"token_type_ids", "pair_label"})

    def __init__(self, label: str = "label", balanced: bool = False) -> None:
        self.label, self.balanced, self.needs = label, balanced, frozenset({label})
        self._said: set[str] = set()

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        _check_documents(store, documents, "LabelledPairs")
        _check_template(vocabulary, "LabelledPairs", cls=True, sep=True)
        if length < 5:
            raise ZooError(f"LabelledPairs: rows of {length} tokens have no room for two texts; 5 is the least.")
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
        """Refuse pairs whose texts have a class each, of which one would be forgotten."""
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
            odd["classes"] = f"{len(counts):,} records have {present} of the {total} classes; the others are never seen"
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
            starts=starts[used],
            lengths=np.stack([a, b], axis=1)[used].astype(np.int32),
            types=np.tile(np.array([0, 1], dtype=np.int8), (len(pair), 1))[used],
            offsets=np.append(0, np.cumsum(counts)),
            documents=documents,
            pair_label=label.astype(np.int32),
        )

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named records: ``cls A sep`` or ``cls A sep B sep``, types 1 for ``B sep``."""
        return gather(store, plan, indices, length, vocabulary, opens=True)


def _prepared(store: Store) -> bool:
    """Whether a store lies on the disk; one that is put together in memory has the facts of its first part."""
    return (store.path / "meta.json").exists()


def _source(store: Store) -> str:
    """The files that a store was made from, or else its folder."""
    files = (_prepared(store) and store.meta.get("source")) or str(store.path)
    return files if isinstance(files, str) else ", ".join(files)


def _number_of_classes(store: Store, name: str) -> int | None:
    """Classes that an annotation of the corpus says that there are, where the store knows."""
    own = store.meta.get("facts", {}).get("annotations", {}).get(name, {})
    values = own.get("arguments", {}).get("values")
    return len(values) if isinstance(values, list) else values


def _place(store: Store, record: int) -> tuple[str, Document | None]:
    """Where a document of a store was read: ``FILE:LINE`` and the document, where the file still has it.

    A store keeps no lines: its text is read again up to there, and has to have as many sentences.
    """
    place, facts = f"record {record + 1:,} of {_source(store)}", store.meta.get("facts")
    if not facts or not _prepared(store):
        return place, None
    config = CorpusConfig(store.meta["source"], text_field=facts["text_field"])
    try:
        if any(source.kind == "hub" for source in resolve_sources(config)):
            return place, None
        whole = (document for document in iter_documents(config) if not document.continues)
        found = next(itertools.islice(whole, record, None), None)
    except ZooError:
        return place, None
    if found is None:
        return place, None
    by_rule = facts["sentences"][0] == "rule" and not found.listed
    count = sum(len(sentence_spans(line)) for line in found.lines) if by_rule else len(found.lines)
    same = count == store.documents[record + 1] - store.documents[record]
    return (f"{found.file}:{found.line}", found) if same else (place, None)


def _more_than_two(store: Store, documents: Ints, counts: Ints, label: str) -> ZooError:
    """What is said of the first record that is neither a text nor a pair."""
    record = int(documents[np.argmax(counts > 2)])
    place, document = _place(store, record)
    sentences = store.meta.get("facts", {}).get("sentences", [None])[0]
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


# --- token-document relation -------------------------------------------------------------------------


class DocumentSegments(Layout):
    """Whole sentences of one document, and for each token whether the document has it elsewhere (ERNIE 2.0, 4.2).

    A segment is a row: rows do not cross document ends, and documents of a single row are left out. The array
    ``elsewhere`` is 2 where the same token occurs in another row of the document, else 1; 0 where nothing is asked.

    Args:
        skip_most_frequent: nothing is asked of the corpus' so many most frequent tokens, which occur everywhere.
            The paper names no candidates; 0 asks of every token.
    """

    provides = frozenset({"elsewhere"})

    def __init__(self, skip_most_frequent: int = 0) -> None:
        if skip_most_frequent < 0:
            raise ZooError(f"DocumentSegments: skip_most_frequent is {skip_most_frequent}; 0 or more.")
        self.skip_most_frequent = skip_most_frequent
        self._sentences = FullSentences(cross_documents=False)

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens, of documents with two rows and more."""
        plan = self._sentences.plan(store, documents, length, vocabulary, draw)
        rows = np.bincount(np.searchsorted(documents, plan.documents), minlength=len(documents))
        several = rows[np.searchsorted(documents, plan.documents)] > 1
        if not several.any():
            raise ZooError(
                f"DocumentSegments: none of the {len(documents)} documents of {store.path} is longer than a row of "
                f"{length} tokens, so no token can occur in another row of its document. Shorten data.sequence_length "
                "or leave the task out."
            )
        return select(plan, np.flatnonzero(several))

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named rows; a token occurs elsewhere where its document has more of it than its row."""
        rows = self._sentences.rows(store, plan, indices, length, vocabulary)
        offsets = store.document_tokens()
        size = vocabulary.size
        elsewhere = np.zeros(rows.shape, dtype=np.uint8)
        totals: dict[int, NDArray[np.int64]] = {}
        for row, document in enumerate(rows.document.tolist()):
            if document not in totals:
                totals[document] = np.bincount(store.tokens[offsets[document] : offsets[document + 1]], minlength=size)
            own = ~rows.special[row]
            tokens = rows.input_ids[row, own]
            elsewhere[row, own] = 1 + (totals[document][tokens] > np.bincount(tokens, minlength=size)[tokens])
        if self.skip_most_frequent:
            elsewhere[self._frequent(store)[rows.input_ids]] = 0
        return rows.replace(arrays={**rows.arrays, "elsewhere": elsewhere})

    def _frequent(self, store: Store) -> NDArray[np.bool_]:
        """(V,) the most frequent tokens; of equals, those with lower ids."""
        counts = np.asarray(store.counts)
        frequent = np.zeros(len(counts), dtype=bool)
        frequent[np.argsort(-counts, kind="stable")[: self.skip_most_frequent]] = True
        return frequent
