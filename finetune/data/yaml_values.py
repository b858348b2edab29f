"""Values of a task's YAML, held against the types of its fields."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from zoo.errors import ZooError


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type; of the kinds of types that a task has."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(fits(option, value) for option in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(inner[0], item) for item in value)
    return type(value) is hint or (hint is float and type(value) is int)


def needed(hint: Any) -> str:
    """A field's type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(needed(option) for option in inner)
    if origin is tuple:
        return f"one or a list, each {needed(inner[0])},"
    words = {
        str: "text (a number, yes or no in quotes)",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return words.get(hint, "null")


def label_text(value: Any, path: Path) -> str:
    """A label as text: YAML reads 0 and 1 as numbers.

    Raises:
        ZooError: it is neither text nor a number.
    """
    if not isinstance(value, str | int | float):
        raise ZooError(f"{path}: a label is {value!r}; text is needed, in quotes where YAML reads something else.")
    if isinstance(value, bool):
        raise ZooError(f"{path}: YAML reads an unquoted yes, no, true or false as {value}; put such a label in quotes.")
    return str(value)
