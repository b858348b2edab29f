"""Entities that a sequence of tags such as ``B-PER I-PER O`` names, read leniently or strictly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from zoo.errors import ZooError

Scheme = Literal["conlleval", "iob2", "bioes"]

SCHEMES: dict[Scheme, str] = {"conlleval": "BIOES", "iob2": "BIO", "bioes": "BIOES"}
"""The letters that a tag of each scheme may begin with."""

UNTYPED = "_"
"""Type of an entity whose tags are a bare ``B`` or ``I``, as ``seqeval`` calls it."""


class TaggedEntity(NamedTuple):
    """Tokens [start, stop) of one row, and their type."""

    start: int
    stop: int
    type: str


def tagged_entities(tags: Sequence[str], scheme: Scheme = "conlleval") -> set[TaggedEntity]:
    """The entities of one row's tags.

    ``conlleval`` reads every sequence, as CoNLL's ``conlleval.pl`` and ``seqeval``'s default do. An entity begins at
    ``B`` and ``S``, where the type changes, and at ``I`` and ``E`` after ``O``, ``E`` or ``S``. It ends behind ``E``
    and ``S``, and before ``B``, ``S``, ``O`` and another type.

    ``iob2`` and ``bioes`` are ``seqeval``'s ``mode="strict"``. An entity of ``iob2`` is a ``B`` with the ``I`` of its
    type behind it. One of ``bioes`` is an ``S``, or a ``B`` with the ``I`` of its type behind it up to an ``E`` of
    that type. What does not fit counts as outside.

    Args:
        tags: (T,) tags: ``O``, or a letter, ``-`` and a type.
        scheme: how they are read.

    Raises:
        ZooError: a tag that begins with no letter of the scheme.
    """
    parts = [_parts(tag, scheme) for tag in tags]
    return _lenient(parts) if scheme == "conlleval" else _strict(parts, closed=scheme == "bioes")


def _parts(tag: str, scheme: Scheme) -> tuple[str, str]:
    letter, dash, kind = tag[:1], tag[1:2], tag[2:]
    if letter not in SCHEMES[scheme] or not letter or (dash and dash != "-") or (letter == "O" and dash):
        letters = ", ".join(f"{one}-TYPE" for one in SCHEMES[scheme] if one != "O")
        raise ZooError(f"{tag!r} is no tag of {scheme}; O, or one of {letters} is needed.")
    return letter, kind or UNTYPED


def _lenient(parts: Sequence[tuple[str, str]]) -> set[TaggedEntity]:
    found: set[TaggedEntity] = set()
    start, before, kind_before = 0, "O", UNTYPED
    for place, (letter, kind) in enumerate([*parts, ("O", UNTYPED)]):
        apart = before in "ES" or kind != kind_before
        if before != "O" and (apart or letter in "BSO"):
            found.add(TaggedEntity(start, place, kind_before))
        if letter != "O" and (apart or before == "O" or letter in "BS"):
            start = place
        before, kind_before = letter, kind
    return found


def _strict(parts: Sequence[tuple[str, str]], closed: bool) -> set[TaggedEntity]:
    found: set[TaggedEntity] = set()
    for start, (letter, kind) in enumerate(parts):
        if letter == "S":
            found.add(TaggedEntity(start, start + 1, kind))
        if letter != "B":
            continue
        stop = start + 1
        while stop < len(parts) and parts[stop] == ("I", kind):
            stop += 1
        if not closed:
            found.add(TaggedEntity(start, stop, kind))
        elif stop < len(parts) and parts[stop] == ("E", kind):
            found.add(TaggedEntity(start, stop + 1, kind))
    return found
