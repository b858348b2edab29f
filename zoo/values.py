"""What values of settings may be, said in their annotations: numbers with a range, names, paths of a user.

A field or an argument is annotated with one of the types below (``lr: Positive = 1e-3``). Settings are checked as they
are read (:mod:`zoo.settings.checks`), config dataclasses also when they are made in Python (:func:`check_fields`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from zoo.errors import ZooError

_LARGEST = 2**63 - 1  # a whole number beyond it fits into no array
_LONGEST_NAME = 150  # bytes; file systems take 255, and a digest or an ending may follow


@dataclass(frozen=True)
class Range:
    """What a number may be; it is finite in any case.

    Args:
        least: smallest value.
        most: largest value.
        above: it must be larger than this.
        below: it must be smaller than this.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """Whether a number is in the range."""
        if isinstance(number, int):
            if abs(number) > _LARGEST:
                return False
        elif not math.isfinite(number):
            return False
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """In words, behind "a number"."""
        named = ((self.least, "of at least"), (self.above, "above"), (self.most, "at most"), (self.below, "below"))
        parts = {
            word: f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound, word in named if bound is not None
        }
        if "of at least" in parts and len(parts) > 1:
            return f"from {parts.pop('of at least')} to " + " ".join(parts.popitem()).removeprefix("at most ")
        return " and ".join(f"{word} {bound}" for word, bound in parts.items())


class _Name:
    """Marks text that becomes a part of a path and is printed."""


class _Path:
    """Marks text that may be a path of the user: a ``~`` at its beginning is the home folder."""


Count = Annotated[int, Range(least=1)]
"""A whole number from 1 on."""
Amount = Annotated[int, Range(least=0)]
"""A whole number from 0 on."""
Workers = Annotated[int, Range(least=1, most=1024)]
"""How many processes or threads."""
Seed = Annotated[int, Range(least=0)]
"""What random numbers are keyed by."""
Positive = Annotated[float, Range(above=0)]
"""A number above 0."""
NotNegative = Annotated[float, Range(least=0)]
"""A number from 0 on."""
Share = Annotated[float, Range(least=0, most=1)]
"""A part of a whole, none and all included."""
Probability = Annotated[float, Range(least=0, below=1)]
"""A part of a whole that is never all of it, such as of dropout."""
Name = Annotated[str, _Name()]
"""Text that becomes a part of a path and is printed: see :func:`check_name`."""
UserPath = Annotated[str, _Path()]
"""A path (or what may stand in its place, such as a hub id): a ``~`` at its beginning is the home folder."""


def user_path(text: str | Path) -> Path:
    """A path as a user writes it; a ``~`` at its beginning is the home folder, also where no shell has expanded it.

    Raises:
        ZooError: ``~NAME`` names no user, or there is no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ZooError(f"{text}: no home folder is known for it; write the path in full.") from error


def check_name(name: Any, where: str) -> None:
    """Raise ZooError if a name cannot be a part of a path, or would not print as it is, in a terminal or in HTML.

    Letters and digits of any script, ``-``, ``_`` and ``.`` may stand in it.

    Args:
        name: the name.
        where: what it is, for the message.
    """
    problem = _name_problem(name)
    if problem is not None:
        raise ZooError(
            f"{where} = {ascii(name)[:80]}: {problem}; letters, digits, '-', '_' and '.' make a name, since files are "
            "named after it."
        )


def _name_problem(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"it is no text but {name!r:.40}"
    if not name:
        return "it is empty"
    if name[0] in ".-":
        return f"it begins with {name[0]!r}"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        return f"it is longer than {_LONGEST_NAME} bytes"
    wrong = [mark for mark in name if mark not in "-_." and unicodedata.category(mark)[0] not in "LMN"]
    return f"{wrong[0]!a} is in it" if wrong else None


def check_value(annotation: Any, value: Any, where: str) -> Any:
    """A value, checked against what its annotation says, with the paths in it expanded.

    Types are not checked: jsonargparse does that, and says it with the same names.

    Args:
        annotation: with its :data:`typing.Annotated` extras.
        value: what was read.
        where: dotted place, for the message.

    Raises:
        ZooError: a number is out of range, or a name cannot be one.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for mark in annotation.__metadata__:
            value = _check_mark(mark, inner[0], value, where)
        return check_value(inner[0], value, where)
    if value is None:
        return value
    if origin in (Union, types.UnionType):
        for option in inner:
            if _suits(option, value):
                return check_value(option, value, where)
    elif origin is list and isinstance(value, list):
        return [check_value(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value)]
    elif origin is tuple and isinstance(value, (list, tuple)):
        kinds = (inner[0],) * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return type(value)([check_value(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(pairs)])
    elif origin is dict and isinstance(value, dict) and len(inner) == 2:
        for key in value:
            check_value(inner[0], key, f"a name in {where}")
        return {key: check_value(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    return value


def _check_mark(mark: Any, kind: Any, value: Any, where: str) -> Any:
    """A value against one extra of its annotation."""
    if isinstance(mark, Range) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not mark.holds(value):
            number = "a whole number" if kind is int else "a number"
            digits = " of less than 19 digits" if isinstance(value, int) and abs(value) > _LARGEST else ""
            raise ZooError(f"{where} = {value}; {number} {mark}{digits} is needed.")
    elif isinstance(mark, _Name):
        check_name(value, where)
    elif isinstance(mark, _Path) and isinstance(value, str) and value.startswith("~"):
        return str(user_path(value))
    return value


def _suits(option: Any, value: Any) -> bool:
    """Whether a value is meant by this option of a union."""
    kind = typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option
    kind = typing.get_origin(kind) or kind
    if kind in (int, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def annotations_of(cls: Any) -> dict[str, Any]:
    """A class's annotations by field, extras included."""
    return typing.get_type_hints(cls, include_extras=True)


def check_fields(config: Any, where: str = "") -> None:
    """Raise ZooError if a number or a name of a config dataclass cannot be; expand its paths.

    Args:
        config: the instance, in its ``__post_init__``.
        where: dotted place of the dataclass, for messages.
    """
    hints = annotations_of(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        checked = check_value(hints[item.name], value, f"{where}.{item.name}" if where else item.name)
        if checked is not value and checked != value:
            object.__setattr__(config, item.name, checked)


def check_shares(owner: str, **shares: float) -> None:
    """Raise ZooError if shares are negative or do not add up to 1."""
    if min(shares.values()) < 0 or not abs(sum(shares.values()) - 1) <= 1e-6:
        raise ZooError(
            f"{owner}: {' + '.join(shares)} = {' + '.join(map(str, shares.values()))} = {sum(shares.values()):g}; the "
            "shares must not be negative and must add up to 1, for example 0.8, 0.1, 0.1."
        )
