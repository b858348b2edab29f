"""The layout interface: how documents become rows, as a plan that can be resumed anywhere.

A plan is a table, not an iterator: row n is a list of pieces of the store, each followed by a separator
or not. Any position of any epoch can therefore be reached at once, and shared out over processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary


@dataclass(frozen=True)
class Plan:
    """N rows as pieces of the store.

    Args:
        piece_starts: (P,) int64 first token of each piece.
        lengths: (P,) int32 tokens of each piece.
        piece_types: (P,) int8 segment of each piece.
        offsets: (N + 1,) int64; row n is pieces [offsets[n], offsets[n + 1]).
        documents: (N,) int64 document of each row's first piece.
        row_labels: (N,) class of each row, where the layout gives it one.
        separators: (P,) whether a separator follows the piece; absent = one follows every piece.
        next_token: (N,) int32 token that follows each row in the text, -1 = none; where the layout knows it.
        reversed: (N,) rows whose pieces are read backwards; their first piece is the text's last.
    """

    piece_starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    piece_types: NDArray[np.int8]
    offsets: NDArray[np.int64]
    documents: NDArray[np.int64]
    row_labels: NDArray[np.int8] | None = None
    separators: NDArray[np.bool_] | None = None
    next_token: NDArray[np.int32] | None = None
    reversed: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Rows in the plan."""
        return len(self.offsets) - 1

    @classmethod
    def concatenate(cls, plans: Sequence[Self]) -> Self:
        """Plans of one layout one after the other as one."""
        if len(plans) == 1:
            return plans[0]
        sizes = [np.diff(plan.offsets) for plan in plans]
        labels = [plan.row_labels for plan in plans if plan.row_labels is not None]
        separators = [plan.separators for plan in plans if plan.separators is not None]
        return cls(
            piece_starts=np.concatenate([plan.piece_starts for plan in plans]),
            lengths=np.concatenate([plan.lengths for plan in plans]),
            piece_types=np.concatenate([plan.piece_types for plan in plans]),
            offsets=np.append(0, np.cumsum(np.concatenate(sizes))),
            documents=np.concatenate([plan.documents for plan in plans]),
            row_labels=np.concatenate(labels) if labels else None,
            separators=np.concatenate(separators) if separators else None,
        )


class Layout(ABC):
    """Documents to rows.

    Attributes:
        provided_fields: fields of :class:`Examples` that this layout fills beyond the always present ones
            (``token_type_ids``, ``row_labels``, names of store arrays).
        required_fields: arrays of the store without which it makes no row.
        short: arguments of its constructor with which a text of a few words makes a row, as an example for messages.
        order: ``shuffled`` rows, or ``contiguous`` ones, which go on from batch to batch, so that a core can remember
            the row before. The text is then cut into G equally long stretches, one for each of the G rows of a global
            batch, and the plan's rows are in the order of training: row t * G + g is the t-th of stretch g. Every epoch
            starts them anew.
        target_start: role of the special token that a decoder reads first, where the layout gives rows targets.
        parallel_rows: G, for ``order = "contiguous"``; set before :meth:`plan` by what knows the batch. Text for fewer
            rows makes as many stretches as there are rows.
    """

    provided_fields: frozenset[str] = frozenset()
    required_fields: frozenset[str] = frozenset()
    short: Mapping[str, object] = MappingProxyType({})
    order: Literal["shuffled", "contiguous"] = "shuffled"
    parallel_rows: int = 32
    target_start: str | None = None

    def memory_span(self, length: int) -> int | None:
        """Tokens at the start of a row of ``length`` that the row after it goes on from; ``None`` = all."""
        return None

    def languages_of(self, store: Store) -> list[str]:
        """What the numbers in ``token_type_ids`` stand for, from 0, where they are languages; else nothing."""
        return []

    def check_length(self, length: int) -> None:  # noqa: B027  # most layouts make rows of any length
        """Raise ZooError if rows of ``length`` tokens have no room for what a row holds; no text is needed for that."""

    def row_lengths(self, plan: Plan) -> Ints:
        """(N,) tokens of each row but for a few template tokens, by which rows of like length come together."""
        ends = np.append(0, np.cumsum(plan.lengths.astype(np.int64) + 1))[plan.offsets]
        lengths: Ints = np.diff(ends)
        return lengths

    @abstractmethod
    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """The rows of one epoch over ``documents`` (ascending store numbers), each at most ``length`` tokens.

        Raises:
            ZooError: these documents cannot be laid out this way; says which layout would work.
        """

    @abstractmethod
    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named rows of a plan, template tokens in place, padded to the longest of them."""


# --- what the layouts share ------------------------------------------------------------------------


def check_documents(store: Store, documents: Ints, layout: str) -> None:
    """Raise ZooError if ``documents`` have no token at all."""
    offsets = store.document_tokens()
    if len(documents) == 0 or int((offsets[documents + 1] - offsets[documents]).sum()) == 0:
        raise ZooError(
            f"{layout}: {len(documents)} documents without a single token in {store.path}; rows need text. Give a "
            "larger corpus, or hold out fewer documents for validation."
        )


def check_special_tokens(vocabulary: Vocabulary, layout: str, cls: bool, sep: bool) -> None:
    """Raise ZooError if the vocabulary lacks a special token that the layout's rows need."""
    missing = [name for name, needed in (("cls", cls), ("sep", sep)) if needed and getattr(vocabulary, name) is None]
    if missing:
        names = {"cls": "an opening token (cls: [CLS] or <s>)", "sep": "a separator (sep: [SEP] or </s>)"}
        raise ZooError(
            f"{layout}: the tokenizer has no {' and no '.join(names[name] for name in missing)}. Train or load one "
            "that has it, add it (data.tokenizer.new_tokens), or use the layout pretraining.layouts.Blocks, which "
            "needs no template tokens."
        )


def take_rows(plan: Plan, rows: Ints) -> Plan:
    """The named rows of a plan, in that order."""
    counts = np.diff(plan.offsets)[rows]
    pieces = ragged_ranges(plan.offsets[rows], counts)
    return Plan(
        piece_starts=plan.piece_starts[pieces],
        lengths=plan.lengths[pieces],
        piece_types=plan.piece_types[pieces],
        offsets=np.append(0, np.cumsum(counts)),
        documents=plan.documents[rows],
        row_labels=None if plan.row_labels is None else plan.row_labels[rows],
        separators=None if plan.separators is None else plan.separators[pieces],
        next_token=None if plan.next_token is None else plan.next_token[rows],
        reversed=None if plan.reversed is None else plan.reversed[rows],
    )
