"""CLUEWSC2020's JSON lines: a text, and in its ``target`` a noun and a pronoun by surface and first character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import check_record, read_records

_PARTS = {"noun": "span1", "pronoun": "span2"}


def read_wsc(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A line's record, with ``noun`` and ``pronoun`` as ``[[start, end]]``, the end not included.

    Source: CLUEbenchmark/CLUE, ``baselines``: ``span1`` is the noun, ``span2`` the pronoun, either may come first.

    Raises:
        ZooError: a target of another form, or a surface that does not stand at its place; by line.
    """
    for number, record in read_records(path, ("text", "target")):
        where = f"{path}, line {number}"
        yield where, _with_spans(record, where)


def hub_wsc(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of one row of the hub, whose test rows have no class."""
    record = _with_spans(row, f"row {row.get('idx', '')} of the hub")
    if record.get("label") is None:
        record.pop("label", None)
    return [record]


def _with_spans(record: dict[str, Any], where: str) -> dict[str, Any]:
    found = dict(record)
    for name, part in _PARTS.items():
        target = check_record(record["target"], f"{where}: 'target'", [f"{part}_text", f"{part}_index"])
        surface, start, text = target[f"{part}_text"], target[f"{part}_index"], record["text"]
        if type(start) is not int or not isinstance(surface, str) or not surface:
            raise ZooError(
                f"{where}: {part}_text is {surface!r} and {part}_index {start!r}; a text and the number of its first "
                "character are needed."
            )
        if isinstance(text, str) and (start < 0 or text[start : start + len(surface)] != surface):
            raise ZooError(
                f"{where}: {part} {surface!r} does not stand at character {start}, where the text has "
                f"{text[max(start, 0) : max(start, 0) + len(surface)]!r}."
            )
        found[name] = [[start, start + len(surface)]]
    return found


WSC = RecordFormat(read_wsc, hub_wsc)
"""Texts with two spans, one example a line."""
