"""Text of several languages, one in each row, some of them oftener than their share (XLM)."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.corpus.config import LANGUAGE
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, take_rows
from pretraining.layouts.examples import Examples
from pretraining.layouts.translation_pairs import language_numbers
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.values import Share
from zoo.vocabulary import Vocabulary


class LanguageStreams(Layout):
    """Another layout's rows of each language by itself; ``token_type_ids`` are languages.

    A language with the share p of all rows gets the share p^alpha / sum of p^alpha of an epoch's (Lample & Conneau
    2019, 3.1): with alpha below 1 rare languages come oftener and frequent ones lose rows to them, others in each
    epoch. An epoch has as many rows as there are. Of translations, each side is text of its language.

    Args:
        layout: how documents become rows.
        alpha: 1 = every row once; 0 = as many rows of each language.
        languages: the run's languages in the order of their embeddings; ``None`` = the text's own.
    """

    def __init__(self, layout: Layout, alpha: Share = 1.0, languages: list[str] | None = None) -> None:
        if layout.order != "shuffled":
            raise ZooError(f"LanguageStreams: rows of {type(layout).__name__} go on from batch to batch; take Blocks.")
        self.layout, self.alpha, self.languages = layout, alpha, languages
        self.provided_fields = layout.provided_fields | {"token_type_ids"}
        self.required_fields = layout.required_fields | {LANGUAGE}

    def languages_of(self, store: Store) -> list[str]:
        """All that the text has, or ``languages``."""
        return self.languages or store.languages

    def check_length(self, length: int) -> None:
        """Raise ZooError if the other layout has no room."""
        self.layout.check_length(length)

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens, language after language."""
        check_documents(store, documents, "LanguageStreams")
        if LANGUAGE not in store.arrays:
            raise ZooError(
                f"LanguageStreams: {store.path} does not say which language a text is of; its corpus needs "
                "`languages`, one for each entry of `files`."
            )
        texts, owners, numbers = _texts(store, documents)
        plans: list[Plan] = []
        for number in np.unique(numbers).tolist():
            own = self.layout.plan(texts, owners[numbers == number], length, vocabulary, draw)
            plans.append(own if store is texts else _of_documents(own, store))
        sizes = np.array([len(plan) for plan in plans])
        chosen = [
            take_rows(plan, _drawn(len(plan), count, draw, f"languages.{place}"))
            for place, (plan, count) in enumerate(zip(plans, row_counts(sizes, self.alpha), strict=True))
            if count
        ]
        return Plan.concatenate(chosen)

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows; all tokens of one are of its language, template tokens too."""
        rows = self.layout.rows(store, plan, indices, length, vocabulary)
        numbers = language_numbers(store, self.languages_of(store), "LanguageStreams")
        languages = numbers[rows.arrays[LANGUAGE].max(axis=1, keepdims=True).astype(np.int64) - 1]
        return rows.replace(token_type_ids=languages * rows.real)


def row_counts(sizes: NDArray[np.integer], alpha: float) -> Ints:
    """Rows of an epoch for languages that have ``sizes`` rows: as many as there are, shared out by a power."""
    weights = np.where(sizes > 0, (sizes / sizes.sum()) ** alpha, 0.0)
    ends = np.rint(np.cumsum(weights / weights.sum()) * sizes.sum()).astype(np.int64)
    counts: Ints = np.diff(ends, prepend=0)
    return counts


def _drawn(size: int, count: int, draw: Draw, stream: str) -> Ints:
    """``count`` of ``size`` rows, ascending, each as often as any other but for one time."""
    order = np.arange(size) if count == size else draw.permutation(size, stream)
    return np.sort(np.resize(order, count))


def _texts(store: Store, documents: Ints) -> tuple[Store, Ints, Ints]:
    """A store whose documents are of one language each, the numbers of some, and their languages."""
    language, first = store.arrays[LANGUAGE], np.asarray(store.documents)
    starts = np.asarray(store.sentences)
    if not store.parallel:
        full = documents[first[documents + 1] > first[documents]]
        return store, full, np.asarray(language[starts[first[full]]])
    view = copy.copy(store)
    view.documents = np.arange(len(starts))
    sentences = np.flatnonzero(np.isin(_owners(store), documents))
    return view, sentences, np.asarray(language[starts[sentences]])


def _owners(store: Store) -> Ints:
    """(S,) document of each sentence."""
    first = np.asarray(store.documents)
    owners: Ints = np.repeat(np.arange(store.num_documents), first[1:] - first[:-1])
    return owners


def _of_documents(plan: Plan, store: Store) -> Plan:
    """A plan over sentences whose ``documents`` are those of the store."""
    return dataclasses.replace(plan, documents=_owners(store)[plan.documents])
