"""A user's own tasks, read from YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from finetune.data.tasks import SpanMarkers, Task
from zoo.errors import ZooError, nearest
from zoo.sample import resolve


def read_task_file(path: str | Path) -> dict[str, Task]:
    """A user's own tasks: a YAML mapping of :class:`Task`'s fields, or a list of such mappings.

    Raises:
        ZooError: not YAML, an unknown field (with the nearest), or a row that cannot work.
    """
    path = Path(resolve(str(path)))
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(f"the task file {path} does not exist.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ZooError(f"{path} is not valid YAML: {error}") from error
    tasks = [_task_of(row, path) for row in (rows if isinstance(rows, list) else [rows])]
    return {task.name: task for task in tasks}


def _task_of(row: Any, path: Path) -> Task:
    fields = {field.name: field for field in dataclasses.fields(Task)}
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if not isinstance(row, dict):
        raise ZooError(f"{path}: a task is a mapping with at least {', '.join(required)}; found {type(row).__name__}.")
    for key in row:
        if key not in fields:
            raise ZooError(
                f"{path}: unknown field {key!r} of a task.{nearest(str(key), fields)} Known: {', '.join(fields)}."
            )
    missing = [name for name in required if name not in row]
    if missing:
        raise ZooError(f"{path}: the task lacks {', '.join(missing)}.")
    facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    facts["marks"] = _marks(row.get("marks", {}), path)
    for key, value in facts.items():
        if fields[key].type.startswith("tuple") and not isinstance(value, tuple):  # `columns: text` means one column
            facts[key] = (value,)
    for key in ("labels", "skip_labels", "hub_labels"):  # YAML reads 0 and 1 as numbers; a file holds text
        facts[key] = tuple(_label_text(value, path) for value in facts.get(key, ()))
    hints = get_type_hints(Task)
    for key, value in facts.items():
        if not _fits(hints[key], value):
            raise ZooError(f"{path}: {key} of task {row['name']!r} is {row[key]!r}; {_needed(hints[key])} is needed.")
    if facts.get("file_format") == "json":
        facts = {"train_files": ("train.json",), "eval_files": ("dev.json",), **facts}
    return Task(**facts)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type; of the kinds of types that :class:`Task` has."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(option, value) for option in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(inner[0], item) for item in value)
    return type(value) is hint or (hint is float and type(value) is int)


def _needed(hint: Any) -> str:
    """A field's type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(_needed(option) for option in inner)
    if origin is Literal:
        return " or ".join(repr(option) for option in inner)
    if origin is tuple:
        return f"one or a list, each {_needed(inner[0])},"
    words = {
        str: "text (a number, yes or no in quotes)",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return words.get(hint, "null")


def _marks(value: Any, path: Path) -> tuple[SpanMarkers, ...]:
    """``{FIELD: [BEFORE, BEHIND]}``; an unquoted ``[HD]`` is a list of one word to YAML."""
    if not isinstance(value, dict):
        raise ZooError(f"{path}: marks is {value!r}; a mapping from fields to two tokens is needed.")
    for field, pair in value.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            raise ZooError(
                f"{path}: marks of {field!r} are {pair!r}; two tokens in quotes are needed, before and behind a span, "
                'as in ["[HD]", "[HD]"].'
            )
    return tuple(SpanMarkers(str(field), *pair) for field, pair in value.items())


def _label_text(value: Any, path: Path) -> str:
    if not isinstance(value, str | int | float):
        raise ZooError(f"{path}: a label is {value!r}; text is needed, in quotes where YAML reads something else.")
    if isinstance(value, bool):
        raise ZooError(f"{path}: YAML reads an unquoted yes, no, true or false as {value}; put such a label in quotes.")
    return str(value)
