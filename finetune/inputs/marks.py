"""Tokens of texts with marks around spans, and the entities that spans name.

Marks stand around a span as tokens of their own (specs: ERNIE-THU, section 5): the text's tokens stay what they are
without them. An entity stands at the first token of its mention, as in pretraining.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.spans import MarkedSpan
from zoo.errors import ZooError

MOST_CHARACTERS = 131_071  # of a text whose tokens' places are known (pretraining.tokenizer)
_CHUNK = 4096  # texts whose places are asked for at a time
Places = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Of N texts with T tokens: (T,) ids, (N,) tokens of each, (T, 2) characters [begin, end) that each stands for."""


class Marked(NamedTuple):
    """N tokenised texts with marks in place; T tokens in all.

    Args:
        ids: (T,) int32.
        lengths: (N,) int64.
        entities: (T,) int32 the entity's number + 1 at the first token of a mention, 0 elsewhere.
        first: (N,) place in its text of the first token that marks stand around, marks included; 0 without marks.
        stop: (N,) the place after the last one.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    entities: NDArray[np.int32]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]


Marker = Callable[[list[str], list[tuple[MarkedSpan, ...]], list[str]], Marked]
"""Texts, their spans, and their sources for messages, to tokens with marks."""


def place_spans(
    places: Places,
    spans: Sequence[Sequence[MarkedSpan]],
    marks: Mapping[str, tuple[int, int]],
    entities: Mapping[str, int],
    least: float,
    where: Sequence[str],
) -> Marked:
    """Tokens of N texts with marks around the spans of some fields, and entities.

    A token that a span holds any part of belongs to the span. Tokens without a place of their own stay outside.

    Args:
        places: the texts' tokens.
        spans: of each text.
        marks: by field the ids that stand before and behind its spans.
        entities: numbers by name; others are none.
        least: confidence from which on an entity is read.
        where: source of each text, for messages.

    Raises:
        ZooError: a marked span of which the tokenizer leaves nothing.
    """
    flat, sizes, characters = places
    ends = np.cumsum(sizes)
    parts: list[list[int]] = []
    read: list[list[int]] = []
    stretches = np.zeros((len(sizes), 2), dtype=np.int64)
    for number, own in enumerate(spans):
        at = slice(int(ends[number] - sizes[number]), int(ends[number]))
        row = _Row(flat[at].tolist(), characters[at])
        for span in own:
            row.add(span, marks.get(span.field), entities, least, where[number])
        ids, linked, stretches[number] = row.made()
        parts.append(ids)
        read.append(linked)
    lengths = np.array([len(ids) for ids in parts], dtype=np.int64)
    joined = np.fromiter(itertools.chain.from_iterable(parts), np.int32, int(lengths.sum()))
    linked_ids = np.fromiter(itertools.chain.from_iterable(read), np.int32, len(joined))
    return Marked(joined, lengths, linked_ids, stretches[:, 0], stretches[:, 1])


class _Row:
    """One text's tokens, to which spans are added."""

    def __init__(self, ids: list[int], places: NDArray[np.int64]) -> None:
        self._ids, self._begins, self._ends = ids, places[:, 0], places[:, 1]
        self._linked = [0] * len(ids)
        self._before: dict[int, list[int]] = {}
        self._behind: dict[int, list[int]] = {}

    def add(
        self, span: MarkedSpan, mark: tuple[int, int] | None, entities: Mapping[str, int], least: float, where: str
    ) -> None:
        inside = np.nonzero((self._begins < span.stop) & (self._ends > span.start))[0]
        if len(inside) == 0:
            if mark is not None:
                raise ZooError(
                    f"{where}: of {span.field!r} [{span.start}, {span.stop}] the tokenizer leaves no token to mark."
                )
            return
        first, last = int(inside[0]), int(inside[-1])
        if mark is not None:
            self._before.setdefault(first, []).append(mark[0])
            self._behind.setdefault(last, []).append(mark[1])
        entity = None if span.entity is None or span.confidence < least else entities.get(span.entity)
        if entity is not None and not self._linked[first]:
            self._linked[first] = entity + 1

    def made(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Ids, entities, and from where to where marks stand."""
        if not self._before:
            return self._ids, self._linked, (0, 0)
        ids: list[int] = []
        linked: list[int] = []
        start, stop = -1, 0
        for place, (token, entity) in enumerate(zip(self._ids, self._linked, strict=True)):
            if place in self._before and start < 0:
                start = len(ids)
            around = self._before.get(place, []), self._behind.get(place, [])
            ids += [*around[0], token, *around[1]]
            linked += [*(0 for _ in around[0]), entity, *(0 for _ in around[1])]
            stop = len(ids) if around[1] else stop
        return ids, linked, (start, stop)


def chunked(count: int) -> Iterable[slice]:
    """Slices that cover ``count`` texts."""
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
