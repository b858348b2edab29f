"""What a record's field says of its text: spans or classes, checked and brought to its lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from pretraining.annotations.base import CharSpan, RecordAnnotator, RecordText, check_choice
from zoo.errors import ZooError, nearest
from zoo.values import Count

_LIMIT = 65_534  # classes, at most


# --- the annotator ---------------------------------------------------------------------------------


class RecordField(RecordAnnotator):
    """What a record's field says: spans, or a class for each line or for the whole record.

    Args:
        kind: ``units``: ``[[start, end], ...]``, more items being ignored, for a list of texts one such list each;
            ``value``: a class, or one for each line.
        values: names of the classes, or how many there are; absent = numbers from 0 on.
        missing: a record without the field is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    def __init__(
        self,
        kind: Literal["units", "value"] = "value",
        values: list[str] | Count | None = None,
        missing: Literal["error", "none"] = "error",
        cut: Literal["error", "skip"] = "error",
    ) -> None:
        check_choice("RecordField: kind", kind, ("units", "value"))
        check_choice("RecordField: missing", missing, ("error", "none"))
        check_choice("RecordField: cut", cut, ("error", "skip"))
        classes = values if isinstance(values, int) else _LIMIT if values is None else len(values)
        if not 1 <= classes <= _LIMIT or (kind == "units" and values is not None):
            raise ZooError(
                f"RecordField: values = {values!r}; names or a number of 1 to {_LIMIT} classes, for kind: value."
            )
        self.kind, self.values, self.missing, self.cut = kind, values, missing, cut
        self._classes = classes
        self._numbers = {name: number for number, name in enumerate(values)} if isinstance(values, list) else None
        self.marks = "units" if kind == "units" else "every"
        self.dtype = "uint8" if kind == "units" or classes < 255 else "uint16"

    def read(self, value: Any, text: RecordText, where: str) -> list[list[CharSpan]]:
        """Spans of each line."""
        if self.kind == "units":
            return read_spans(value, text, where, lambda items, place: 1)
        if not isinstance(value, list):
            return [[(0, len(line), self._number(value, where))] for line in text.lines]
        if len(value) != len(text.lines):
            raise ZooError(f"{where} holds {len(value)} values for {len(text.lines)} lines of text.")
        return [
            [(0, len(line), self._number(item, f"{where}, value {place}"))]
            for place, (line, item) in enumerate(zip(text.lines, value), start=1)
        ]

    def _number(self, value: Any, where: str) -> int:
        """Class + 1."""
        if self._numbers is not None:
            name = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
            if name not in self._numbers:
                known = list(self._numbers)
                raise ZooError(f"{where} is {value!r}; it must be one of {', '.join(known)}.{nearest(name, known)}")
            return self._numbers[name] + 1
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < self._classes:
            names = "" if isinstance(self.values, int) else " Classes that go by names need `values: [NAME, ...]`."
            raise ZooError(f"{where} is {value!r}; a whole number of 0 to {self._classes - 1} is needed.{names}")
        return value + 1


# --- spans of a record -----------------------------------------------------------------------------


def read_spans(value: Any, text: RecordText, where: str, number: Any) -> list[list[CharSpan]]:
    """Spans of each line of a record.

    Args:
        value: ``[[start, end, ...], ...]`` into the whole text; for a list of texts one such list for each.
        text: the record's.
        where: beginning of messages.
        number: (items, place for messages) -> what to write.

    Raises:
        ZooError: no such lists, a span outside of the text or across a line end, spans that overlap.
    """
    if not isinstance(value, list):
        raise ZooError(f"{where} holds {_kind(value)}; a list of [start, end] pairs was expected.")
    if text.listed:
        if len(value) != len(text.lines):
            raise ZooError(f"{where} holds {len(value)} lists of spans for {len(text.lines)} texts.")
        return [
            [span for _, span in _checked(item, [line], f"{where}, text {place}", number)]
            for place, (item, line) in enumerate(zip(value, text.lines), start=1)
        ]
    lines: list[list[CharSpan]] = [[] for _ in text.lines]
    for line, span in _checked(value, text.lines, where, number):
        lines[line].append(span)
    return lines


def _checked(value: Any, lines: list[str], where: str, number: Any) -> Iterator[tuple[int, CharSpan]]:
    """(line, span in it) in order; raises ZooError if spans overlap or lie outside of the text."""
    if not isinstance(value, list):
        raise ZooError(f"{where} holds {_kind(value)}; a list of [start, end] pairs was expected.")
    edges = np.cumsum([0, *(len(line) + 1 for line in lines)])
    length = int(edges[-1]) - 1
    spans = []
    for place, items in enumerate(value, start=1):
        named = f"{where}, span {place}"
        if not isinstance(items, list) or len(items) < 2 or not all(type(edge) is int for edge in items[:2]):
            raise ZooError(f"{named} is {items!r}; [start, end] in characters, the end not included, is needed.")
        start, end = items[:2]
        if not 0 <= start < end <= length:
            raise ZooError(f"{named} is [{start}, {end}]{_wrong_offsets(start, end, length)}")
        line = int(np.searchsorted(edges, start, side="right")) - 1
        if end >= edges[line + 1]:
            raise ZooError(f"{named}, [{start}, {end}], goes beyond the end of a line.")
        spans.append((start, end, line, number(items, named)))
    spans.sort()
    for first, second in pairwise(spans):
        if second[0] < first[1]:
            raise ZooError(f"{where}: the spans {list(first[:2])} and {list(second[:2])} overlap.")
    for start, end, line, code in spans:
        yield line, (start - int(edges[line]), end - int(edges[line]), code)


def _wrong_offsets(start: int, end: int, length: int) -> str:
    """The rest of a message about a span that is none."""
    if min(start, end) < 0:
        return f", which is negative; characters are counted from 0 at the start of the text, here up to {length}."
    if start == end <= length:
        return f", which is empty; the end is not included, so that one character would be [{start}, {start + 1}]."
    if start > end:
        return f", which ends before it begins; [{end}, {start}] would work if the two are the wrong way round."
    return f" in a text of {length} characters."


def _kind(value: Any) -> str:
    return f"a {type(value).__name__} ({str(value)[:40]!r})"
