"""Spans in labelled texts: where they stand, and the entities that they name.

A row's field holds ``[[start, end], ...]`` in characters of its text, the end not included; ``[start, end, "Q42"]``
also names an entity, ``[start, end, "Q42", 0.7]`` says how sure a linker was. For a pair of texts it holds one such
list for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.data.tasks import Task
from zoo.errors import ZooError


class MarkedSpan(NamedTuple):
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


RowSpans = tuple[tuple[MarkedSpan, ...], ...]
"""A row's spans, for each of its one or two texts; at one place the earlier one counts."""


def read_row_spans(task: Task, values: Mapping[str, Any], texts: Sequence[str], where: str) -> RowSpans:
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
    found: list[list[MarkedSpan]] = [[] for _ in texts]
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


def _span(item: Any, text: str, field: str, where: str) -> MarkedSpan:
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
    return MarkedSpan(start, stop, field, entity, float(confidence))


def respaced(spans: Iterable[MarkedSpan], old: str, new: str) -> tuple[MarkedSpan, ...]:
    """The spans of a text in the same text with white space elsewhere, which no span then begins or ends with."""
    characters = np.cumsum([0, *(not character.isspace() for character in old)])
    places = [place for place, character in enumerate(new) if not character.isspace()]
    if len(places) != characters[-1]:
        raise ZooError(f"a segmenter changed more than the white space of {old[:60]!r}, so that spans are lost.")
    return tuple(
        span._replace(start=places[characters[span.start]], stop=places[characters[span.stop] - 1] + 1)
        for span in spans
    )
