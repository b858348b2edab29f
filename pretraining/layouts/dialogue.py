"""Dialogues as rows: a few utterances, who says each, and whether one of them does not belong there (ERNIE 1.0)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary

_ANNOTATION = (
    "Dialogues are JSON records with the utterances as a list in the text field and the speakers, 0 or 1, as a list in "
    "a field of this name, in a corpus with `annotations: {{{role}: {{class_path: pretraining.annotations.RecordField, "
    "init_args: {{values: 2}}}}}}`."
)


class _Utterances(NamedTuple):
    """Utterances that have tokens, thread by thread. U utterances, T threads.

    Args:
        start: (U,) store token at which each begins.
        size: (U,) its tokens.
        role: (U,) who speaks.
        bounds: (T + 1,) first utterance of each thread.
        thread: (T,) store document of each thread.
    """

    start: Ints
    size: Ints
    role: Ints
    bounds: Ints
    thread: Ints


class Dialogue(Layout):
    """``cls Q sep R sep R sep``: consecutive utterances of a thread, with the speakers in the place of segments.

    A document of the corpus is a thread and a sentence an utterance (``sentences: line``, or JSON records whose text is
    a list); the store's array ``role`` says who speaks. A thread is cut into rows of two utterances and more, of almost
    equal number. With ``max_utterances: 2`` a thread of an odd number leaves out its first utterance in one epoch and
    its last in the next, by turns, since alone it would make no row.

    In ``fake_share`` of the rows one utterance, any of them, is replaced by an utterance from anywhere else, which
    takes over its place and its speaker; the row's label is then 1, else 0 (the project's convention; the paper,
    section 3.3.1, names real and fake, and states neither a share nor a convention). Rows that are too long lose tokens
    at the ends of their longest utterances.

    Args:
        max_utterances: most utterances of a row.
        fake_share: share of the rows with a replaced utterance.
        role: name of the array.

    Raises:
        ZooError: a share outside [0, 1], or rows of fewer than two utterances.
    """

    provided_fields = frozenset({"token_type_ids", "row_labels"})
    portion = 2_000_000  # utterances planned together, which bounds the memory of a plan under way

    def __init__(self, max_utterances: Count = 3, fake_share: Share = 0.5, role: str = "role") -> None:
        if max_utterances < 2:
            raise ZooError(f"Dialogue: max_utterances is {max_utterances}; a dialogue has two utterances or more.")
        if not 0.0 <= fake_share <= 1.0:
            raise ZooError(f"Dialogue: fake_share is {fake_share}; a share in [0, 1] is needed.")
        self.max_utterances, self.fake_share, self.role = max_utterances, fake_share, role
        self.required_fields = frozenset({role})

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 1 + 2 * self.max_utterances:
            raise ZooError(
                f"Dialogue: rows of {length} tokens have no room for {self.max_utterances} utterances; "
                f"{1 + 2 * self.max_utterances} is the least."
            )

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens; threads of a single utterance are left out."""
        check_documents(store, documents, "Dialogue")
        check_special_tokens(vocabulary, "Dialogue", cls=True, sep=True)
        self.check_length(length)
        if self.role not in store.arrays:
            raise ZooError(
                f"Dialogue: {store.path} has no array {self.role!r} that says who speaks (it has "
                f"{', '.join(store.arrays) or 'none'}). " + _ANNOTATION.format(role=self.role)
            )
        everywhere = self._utterances(store, documents)
        counts = np.diff(everywhere.bounds)
        if counts.max(initial=0) < 2:
            raise ZooError(
                f"Dialogue: none of the {len(documents)} threads of {store.path} has two utterances. "
                + _ANNOTATION.format(role=self.role)
            )
        if len(counts) < 2 and self.fake_share:
            raise ZooError(
                f"Dialogue: a replaced utterance comes from another thread, but {store.path} offers a single one here; "
                "give more dialogues, or set fake_share: 0."
            )
        return Plan.concatenate(
            [self._plan(everywhere, part, length, draw) for part in _portions(counts, self.portion)]
        )

    def _utterances(self, store: Store, documents: Ints) -> _Utterances:
        """Everything that is said in ``documents``.

        Raises:
            ZooError: an utterance without a speaker, or a third speaker.
        """
        offsets, edges = np.asarray(store.documents), np.asarray(store.sentences)
        counts = offsets[documents + 1] - offsets[documents]
        number = ragged_ranges(offsets[documents], counts)
        size = edges[number + 1] - edges[number]
        thread = np.repeat(documents, counts)
        number, thread, size = number[size > 0], thread[size > 0], size[size > 0]
        role = np.asarray(store.arrays[self.role])[edges[number]].astype(np.int64)
        if not role.all():
            raise ZooError(
                f"Dialogue: an utterance of document {int(thread[(role == 0).argmax()])} of {store.path} has no "
                f"speaker in its array {self.role!r}. " + _ANNOTATION.format(role=self.role)
            )
        if role.max() > 2:
            raise ZooError(
                f"Dialogue: {store.path} names {int(role.max())} speakers in its array {self.role!r}; 0 (who asks) and "
                "1 (who answers) are the roles, one for each row of the model's table of segments."
            )
        kept, first = np.unique(thread, return_index=True)
        return _Utterances(edges[number], size, role - 1, np.append(first, len(number)), kept)

    def _plan(self, utterances: _Utterances, threads: Ints, length: int, draw: Draw) -> Plan:
        """Rows of some threads, given by their place in ``utterances.thread``."""
        count = np.diff(utterances.bounds)[threads]
        threads, count = threads[count > 1], count[count > 1]
        rows = -(-count // self.max_utterances)
        rows -= rows * 2 > count  # of max_utterances = 2, an odd one out would be alone
        place = ragged_ranges(np.zeros_like(rows), rows)
        own, many = np.repeat(count, rows), np.repeat(rows, rows)
        begin = place * own // many
        used = np.minimum((place + 1) * own // many - begin, self.max_utterances)
        skipped = self._skipped(utterances.start[utterances.bounds[threads]], count - rows * self.max_utterances, draw)
        first = np.repeat(utterances.bounds[threads] + skipped, rows) + begin
        piece = ragged_ranges(first, used)
        row = np.repeat(np.arange(len(first)), used)
        source, label = self._replaced(utterances, np.repeat(threads, rows), first, used, draw)
        place_in_row = piece - first[row]
        taken = np.where(place_in_row == source.place[row], source.utterance[row], piece)
        size = fit_sizes(utterances.size[taken], used, length - 1 - used)
        return Plan(
            piece_starts=utterances.start[taken],
            lengths=size.astype(np.int32),
            piece_types=utterances.role[piece].astype(np.int8),
            offsets=np.append(0, np.cumsum(used)),
            documents=utterances.thread[np.repeat(threads, rows)],
            row_labels=label.astype(np.int8),
        )

    def _skipped(self, key: Ints, over: Ints, draw: Draw) -> Ints:
        """Utterances before the first row of each thread: 0, or 1 by turns where one has no place in the rows.

        Keyed by the thread's first token. The draw is that of all epochs and the epoch turns it, so that two epochs in
        succession have every utterance; draws of their own would leave out one and the same now and then.

        Args:
            key: (T,) first token of each thread.
            over: (T,) utterances for which the rows have no place, at most 1.
            draw: of the epoch.
        """
        return np.where(over > 0, (Draw(draw.seed, 0).integers(key, 2, "dialogue.skip") + draw.epoch) % 2, 0)

    def _replaced(
        self, utterances: _Utterances, thread: Ints, first: Ints, used: Ints, draw: Draw
    ) -> tuple[_Fake, Ints]:
        """Which utterance of each row gives way to which other one; place -1 = none. And the labels.

        Draws are keyed by the row's first token, which is its own in the whole store.
        """
        key = utterances.start[first]
        fake = draw.uniform(key, "dialogue.fake") < self.fake_share
        bounds = utterances.bounds
        own = bounds[thread + 1] - bounds[thread]
        other = draw.integers(key, np.maximum(len(utterances.start) - own, 1), "dialogue.other")
        other += np.where(other >= bounds[thread], own, 0)
        place = np.where(fake, draw.integers(key, used, "dialogue.place"), -1)
        return _Fake(place, np.minimum(other, len(utterances.start) - 1)), fake.astype(np.int64)

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows; ``token_type_ids`` is the speaker of each utterance, its separator included."""
        return build_examples(store, plan, indices, length, vocabulary, opens=True)


class _Fake(NamedTuple):
    """What is replaced in each row: (R,) place among its utterances, -1 = none, and (R,) the utterance put there."""

    place: Ints
    utterance: Ints


def fit_sizes(size: Ints, used: Ints, budget: Ints) -> Ints:
    """Sizes cut so that each row's sum is within its budget: as if the longest lost a token, again and again.

    Args:
        size: (P,) tokens of the pieces, row by row.
        used: (R,) pieces of each row.
        budget: (R,) tokens that it may have.
    """
    most = int(used.max(initial=1))
    row = np.repeat(np.arange(len(used)), used)
    place = ragged_ranges(np.zeros_like(used), used)
    table = np.full((len(used), most), -1, dtype=np.int64)
    table[row, place] = size
    order = np.argsort(table, axis=1, kind="stable")  # the shortest first; -1 = no piece
    left = budget.copy()
    for step in range(most):
        column = order[:, step]
        here = np.arange(len(used)), column
        share = left // (most - step)  # what all that are left can have
        known = table[here]
        table[here] = np.where(known < 0, known, np.minimum(known, share))
        left -= np.maximum(table[here], 0)
    return table[row, place]


def _portions(counts: Ints, utterances: int) -> list[Ints]:
    """Places of the threads, in portions of about so many ``utterances``."""
    total = np.cumsum(counts)
    cuts = np.unique(np.searchsorted(total, np.arange(utterances, total[-1], utterances)))
    return [part for part in np.split(np.arange(len(counts)), cuts) if len(part)]
