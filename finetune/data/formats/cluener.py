"""CLUENER's JSON lines: the entities of a text by type and surface, each place with its last character included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import read_records


def read_cluener(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Texts as ``text``, with ``label`` ``[[start, end, type], ...]``, the end not included; test rows have none.

    Of entities inside others, as one training row has, the outer one is kept, since a character has one tag.

    Raises:
        ZooError: a label of another form, or a place where its surface does not stand; by line.
    """
    for number, record in read_records(path, ("text",)):
        where = f"{path}, line {number}"
        if "label" in record:
            text = record["text"] if isinstance(record["text"], str) else ""
            yield where, {**record, "label": _outer(_spans(record["label"], text, where))}
        else:
            yield where, record


def _spans(label: Any, text: str, where: str) -> list[list[Any]]:
    found: list[list[Any]] = []
    for kind, surfaces in _items(label, where):
        for surface, places in _items(surfaces, where):
            for place in places if isinstance(places, list) else [None]:
                start, last = _place(place, f"{where}: {kind!r} {surface!r}")
                if start < 0 or text[start : last + 1] != surface:
                    raise ZooError(
                        f"{where}: {surface!r} ({kind}) does not stand at {place}, where the text has "
                        f"{text[max(start, 0) : last + 1]!r}."
                    )
                found.append([start, last + 1, kind])
    return found


def _items(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ZooError(f"{where}: 'label' holds {str(value)[:60]!r}; {{type: {{surface: [[start, end]]}}}} is needed.")
    return list(value.items())


def _place(place: Any, where: str) -> tuple[int, int]:
    if isinstance(place, list) and len(place) == 2 and all(type(edge) is int for edge in place):
        return place[0], place[1]
    raise ZooError(f"{where} stands at {str(place)[:60]}; a list of [start, end] in whole numbers is needed.")


def _outer(spans: list[list[Any]]) -> list[list[Any]]:
    kept: list[list[Any]] = []
    for span in sorted(spans, key=lambda one: (one[0] - one[1], one)):  # the longest first
        if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
            kept.append(span)
    return sorted(kept)


CLUENER = RecordFormat(read_cluener)
