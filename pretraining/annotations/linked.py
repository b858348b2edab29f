"""Entities of a knowledge graph that a record names, and the file that numbers them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pretraining.annotations.base import CharSpan, Marks, RecordAnnotator, RecordText, check_choice
from pretraining.annotations.field import read_spans
from zoo.errors import ZooError, nearest
from zoo.storage.user_files import read_lines
from zoo.values import UserPath

ENTITY_ARRAY = "entity_id"
"""The store's array that says where entities stand. A mention's first token has the entity's number + 1, others 0."""


class LinkedEntities(RecordAnnotator):
    """Entities of a knowledge graph that a record's field names: their number + 1 at the first token of each mention.

    Args:
        entities: the graph's entities, UTF-8: one name per line, whose number is the line's, from 0; or in each
            line ``name<TAB>number`` (OpenKE's ``entity2id.txt``, whose first line, how many there are, is passed over;
            above lines that are names alone, a line of digits is a name, too).
        unknown: a name that is not among them is left out and counted (``skip``), or an ``error``.
        missing: a record without the field is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    version = 2
    paths = frozenset({"entities"})
    marks: Marks = "first"
    dtype = "int32"

    def __init__(
        self,
        entities: UserPath,
        unknown: Literal["skip", "error"] = "skip",
        missing: Literal["error", "none"] = "error",
        cut: Literal["error", "skip"] = "error",
    ) -> None:
        check_choice("LinkedEntities: unknown", unknown, ("skip", "error"))
        check_choice("LinkedEntities: missing", missing, ("error", "none"))
        check_choice("LinkedEntities: cut", cut, ("error", "skip"))
        self.entities, self.unknown, self.missing, self.cut = entities, unknown, missing, cut
        self._numbers: dict[str, int] = {}

    def ready(self, lowercase: bool) -> None:
        """Read the names."""
        (path,) = self.data_files()["entities"]
        self._numbers = read_entities(path)

    def recipe(self) -> dict[str, Any]:
        """With what tells the names, so that a table of vectors can be compared with them."""
        (path,) = self.data_files()["entities"]
        return {**super().recipe(), "names": names_recipe(self._numbers or read_entities(path))}

    def read(self, value: Any, text: RecordText, where: str) -> list[list[CharSpan]]:
        """Spans of each line with the entities' numbers + 1; 0 where the graph has none of that name."""

        def number(items: list[Any], place: str) -> int:
            name = items[2] if len(items) > 2 else None
            if not isinstance(name, str):
                raise ZooError(f"{place} is {items!r}; [start, end, name of the entity] is needed.")
            if name not in self._numbers and self.unknown == "error":
                raise ZooError(f"{place}: {self.entities} has no entity {name!r}.{_near_entity(name, self._numbers)}")
            return self._numbers.get(name, -1) + 1

        return read_spans(value, text, where, number)


def _near_entity(name: str, known: Mapping[str, int]) -> str:
    """A hint where that takes no time."""
    return nearest(name, known) if len(known) < 10_000 else ""


def read_entities(path: Path) -> dict[str, int]:
    """Names and numbers of a file of entities, see :class:`LinkedEntities`.

    Raises:
        ZooError: no names, a name or number that occurs twice, lines with and without numbers, an empty line among
            names without numbers (an error for :func:`zoo.storage.entity_table.read_names`, too), naming the line.
    """
    entries = _entity_lines(path)
    first, second = next(entries, None), next(entries, None)
    if first is None:
        raise ZooError(f"{path} names no entities; one per line is needed.")
    rest = [first] if second is None else [first, second]
    if _is_count(first, second):
        del rest[0]
    numbered = rest[0].number is not None
    numbers: dict[str, int] = {}
    seen: set[int] = set()
    for place, name, text in chain(rest, entries):
        number_given = text is not None and text.isdecimal() and len(text) <= _DIGITS
        if (text is not None) != numbered or (numbered and not number_given):
            line = name if text is None else f"{name}\t{text}"
            raise ZooError(f"{path}:{place}: {line[:80]!r} is not `name` or, as in all other lines, `name<TAB>number`.")
        if not numbered and place != len(numbers) + 1:
            raise ZooError(f"{path}:{len(numbers) + 1}: an empty line, where an entity's name belongs.")
        number = int(text) if text is not None else len(numbers)
        if name in numbers or number in seen:
            raise ZooError(f"{path}:{place}: the name {name!r} or the number {number} occurs a second time.")
        numbers[name] = number
        seen.add(number)
    if max(seen) >= 2**31 - 1:
        raise ZooError(f"{path}: the number {max(seen)} is too large; 32 bits hold it.")
    return numbers


_NAMES_KEPT = 64
_DIGITS = 18  # of a number that Python converts; 32 bits hold fewer


def names_recipe(numbers: Mapping[str, int]) -> dict[str, Any]:
    """What tells a list of entities from another: how many, a digest of names and numbers, and some of the names."""
    ordered = sorted((number, name) for name, number in numbers.items())
    digest = hashlib.blake2b("".join(f"{number}\t{name}\n" for number, name in ordered).encode(), digest_size=16)
    some = {*ordered[:: -(-len(ordered) // _NAMES_KEPT)], ordered[-1]}
    return {"count": len(ordered), "digest": digest.hexdigest(), "some": [list(pair) for pair in sorted(some)]}


class _EntityLine(NamedTuple):
    """A line of a file of entities: its place, from 1 on, the name, and what stands behind a tab, if one is there."""

    place: int
    name: str
    number: str | None


def _entity_lines(path: Path) -> Iterator[_EntityLine]:
    """The lines that are not empty."""
    for place, line in enumerate(read_lines(path), start=1):
        name, tab, text = line.strip("\r").partition("\t")
        if name.strip():
            yield _EntityLine(place, name.strip(), text.strip() if tab else None)


def _is_count(first: _EntityLine, second: _EntityLine | None) -> bool:
    """Whether the first line says how many entities there are: digits may be a name, but not above numbered names."""
    alone = first.number is None and first.name.isdecimal()
    return alone and second is not None and second.number is not None and second.number.isdecimal()
