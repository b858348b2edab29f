"""Spans in labelled texts: tokens that mark them, and the entities that they name.

A row's field holds ``[[start, end], ...]`` in characters of its text, the end not included; ``[start, end, "Q42"]``
also names an entity, ``[start, end, "Q42", 0.7]`` says how sure a linker was. For a pair of texts it holds one such
list for each. Marks stand around a span as tokens of their own (specs: ERNIE-THU, section 5): the text's tokens stay
what they are without them. An entity stands at the first token of its mention, as in pretraining.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

if TYPE_CHECKING:
    from finetune.tasks import Task

MOST_CHARACTERS = 131_071  # of a text whose tokens' places are known (pretraining.tokenizer.entries)
_CHUNK = 4096  # texts whose places are asked for at a time
Places = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Of N texts with T tokens: (T,) ids, (N,) tokens of each, (T, 2) characters [begin, end) that each stands for."""


class Span(NamedTuple):
    """A stretch of one text.

    Args:
        start: its first character.
        stop: the character after its last.
        field: what its row calls it.
        entity: name of the entity that it mentions; ``None`` = of none.
        confidence: of the linker; 1 where none is given.
    """

    start: int
    stop: int
    field: str
    entity: str | None = None
    confidence: float = 1.0


Spans = tuple[tuple[Span, ...], ...]
"""A row's spans, for each of its one or two texts; at one place the earlier one counts."""


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


# ---- reading --------------------------------------------------------------------------------------------------------


def read_spans(task: Task, values: Mapping[str, Any], texts: Sequence[str], where: str) -> Spans:
    """One row's spans, those of marked fields first.

    Args:
        task: says which fields hold them.
        values: the row.
        texts: its one or two texts.
        where: file and line, for messages.

    Raises:
        ZooError: no spans where some belong, a form that is none of those above, a span outside of its text or of
            white space only, or marked spans that overlap.
    """
    found: list[list[Span]] = [[] for _ in texts]
    marked = {mark.field for mark in task.marks}
    for field in task.span_fields:
        lists = values[field] if task.pair else [values[field]]
        if not isinstance(lists, list) or len(lists) != len(texts) or not all(isinstance(one, list) for one in lists):
            form = "[[SPANS OF THE FIRST TEXT], [SPANS OF THE SECOND]]" if task.pair else "[[start, end], ...]"
            raise ZooError(f"{where}: {field!r} is {str(values[field])[:80]}; a list {form} is needed.")
        for text, own, spans in zip(texts, lists, found, strict=True):
            spans.extend(_span(item, text, field, f"{where}: {field!r}") for item in own)
        if field in marked and not any(lists):
            raise ZooError(f"{where}: {field!r} has no span, and task {task.name!r} marks it.")
    for text, spans in zip(texts, found, strict=True):
        ordered = sorted(span for span in spans if span.field in marked)
        for one, two in itertools.pairwise(ordered):
            if two.start < one.stop:
                raise ZooError(
                    f"{where}: {one.field!r} [{one.start}, {one.stop}] {text[one.start : one.stop]!r} and "
                    f"{two.field!r} [{two.start}, {two.stop}] {text[two.start : two.stop]!r} overlap; marks need spans "
                    "apart."
                )
    return tuple(tuple(spans) for spans in found)


def _span(item: Any, text: str, field: str, where: str) -> Span:
    if not isinstance(item, list) or not 2 <= len(item) <= 4:
        raise ZooError(
            f"{where} holds {str(item)[:80]}; [start, end], [start, end, name] or [start, end, name, confidence] is "
            "needed."
        )
    start, stop, entity, confidence = (*item, None, None)[:4]
    if not all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, stop)):
        raise ZooError(f"{where}: {item} does not begin with two whole numbers, the first character and the end.")
    if not 0 <= start < stop <= len(text):
        raise ZooError(f"{where}: {item} is no span of its text, which has {len(text)} characters: {text[:60]!r}.")
    if not text[start:stop].strip():
        raise ZooError(f"{where}: {item} holds white space only, in {text[:60]!r}.")
    if entity is not None and not (isinstance(entity, str) and entity):
        raise ZooError(
            f"{where}: {item} names its entity by {entity!r}; a name in quotes, or null for none, is needed."
        )
    if confidence is None:
        confidence = 1.0
    number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if not number or not math.isfinite(confidence) or confidence < 0:
        raise ZooError(f"{where}: {item} has the confidence {confidence!r}; a number from 0 on is needed.")
    return Span(start, stop, field, entity, float(confidence))


def respaced(spans: Iterable[Span], old: str, new: str) -> tuple[Span, ...]:
    """The spans of a text in the same text with white space elsewhere, which no span then begins or ends with."""
    characters = np.cumsum([0, *(not character.isspace() for character in old)])
    places = [place for place, character in enumerate(new) if not character.isspace()]
    if len(places) != characters[-1]:
        raise ZooError(f"a segmenter changed more than the white space of {old[:60]!r}, so that spans are lost.")
    return tuple(
        span._replace(start=places[characters[span.start]], stop=places[characters[span.stop] - 1] + 1)
        for span in spans
    )


# ---- tokens ---------------------------------------------------------------------------------------------------------


def place_spans(
    places: Places,
    spans: Sequence[Sequence[Span]],
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
        self, span: Span, mark: tuple[int, int] | None, entities: Mapping[str, int], least: float, where: str
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
