"""What a record's field says about its text: spans, or a class for each line or for the whole record."""

from __future__ import annotations

from typing import Any, Literal

from pretraining.annotations.base import CharSpan, RecordAnnotator, RecordText, check_choice
from pretraining.annotations.recorded_spans import read_spans
from zoo.errors import ZooError, nearest

_LIMIT = 65_534  # classes, at most


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
        values: list[str] | int | None = None,
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
