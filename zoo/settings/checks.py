"""Plain values against the types they are meant for, before jsonargparse builds them.

jsonargparse checks types too. What it does not do, or says less well, is here: an unknown key with the nearest one,
``null`` to leave an entry out, lists between commas, and text that YAML takes for something else.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Union

from zoo.errors import ZooError, nearest
from zoo.settings.yaml_files import parse_value


def _alternatives(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, ``None`` left out."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [a for a in typing.get_args(annotation) if a is not type(None)]
    return [annotation]


def _split(annotation: Any, text: str) -> Any:
    """A text where only a list will do: its parts between commas, as in ``--init_from.layers 0,2``."""
    options = _alternatives(annotation)
    inner = next((typing.get_args(option)[0] for option in options if typing.get_origin(option) is list), None)
    if inner is None or str in options:
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if inner is str else [parse_value(part) for part in parts]


def _textual(annotation: Any) -> bool:
    """Whether only text will do: a text, a list of them, or one of some words."""
    options = _alternatives(annotation)
    words = (typing.get_origin(o) is Literal and all(isinstance(w, str) for w in typing.get_args(o)) for o in options)
    return bool(options) and all(o in (str, list[str]) or w for o, w in zip(options, words, strict=True))


def _as_text(annotation: Any, value: Any, where: str, texts: Mapping[str, str | None]) -> Any:
    """What the command line says, where only text will do: ``--output 2024`` and ``--output true`` name folders.

    Raises:
        ZooError: YAML says something else than text; or a key that is no switch has no value.
    """
    if (
        where in texts
        and texts[where] is None
        and bool not in (options := _alternatives(annotation))
        and Any not in options
    ):
        raise ZooError(f"--{where} has no value: --{where} VALUE.")
    if not isinstance(value, (bool, int, float)) or not _textual(annotation):
        return value
    if where not in texts:
        choices = [
            word for option in _alternatives(annotation) for word in typing.get_args(option) if isinstance(word, str)
        ]
        needed = f"one of {', '.join(choices)}" if choices else "text"
        raise ZooError(
            f"{where} = {str(value).lower()}, and {needed} is needed: --{where} VALUE on the command line; in YAML "
            f"between quotes, since words such as no, true and 12 are something else there."
        )
    return _split(annotation, str(texts[where]))


def check_keys(
    annotation: Any, value: Any, where: str = "", texts: Mapping[str, str | None] = MappingProxyType({})
) -> Any:
    """Raise ZooError if a key is unknown; drop ``null`` entries of dictionaries, split lists given as text.

    Args:
        annotation: the dataclass or type that ``value`` is meant for.
        value: what was read.
        where: dotted place, for the message.
        texts: by dotted place, what the command line says there, letter by letter; ``None`` for a key without a value.

    Returns:
        the value without dropped entries.
    """
    if isinstance(value, str):
        return _split(annotation, value)
    if not isinstance(value, dict):
        return _as_text(annotation, value, where, texts)
    for option in _alternatives(annotation):
        if "class_path" in value:
            return {**value, "init_args": _check_class(value, where, texts)}
        if dataclasses.is_dataclass(option):
            hints = typing.get_type_hints(option)
            names = [field.name for field in dataclasses.fields(option) if field.init]
            _raise_on_unknown_keys(value, names, where)
            return {key: check_keys(hints[key], item, _join(where, key), texts) for key, item in value.items()}
        if typing.get_origin(option) is dict and len(typing.get_args(option)) == 2:
            inner = typing.get_args(option)[1]
            return {k: check_keys(inner, v, _join(where, str(k)), texts) for k, v in value.items() if v is not None}
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _raise_on_unknown_keys(value: dict[str, Any], names: list[str], where: str) -> None:
    for key in value:
        if key not in names:
            raise ZooError(
                f"unknown key {_join(where, str(key))!r}.{nearest(str(key), names)} Known here: {', '.join(names)}."
            )


def _check_class(value: dict[str, Any], where: str, texts: Mapping[str, str | None]) -> dict[str, Any]:
    _raise_on_unknown_keys(value, ["class_path", "init_args"], where)
    arguments = value.get("init_args") or {}
    found = import_class(value["class_path"], where)
    signature = inspect.signature(found)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return dict(arguments)
    _raise_on_unknown_keys(arguments, list(signature.parameters), _join(where, "init_args"))
    try:
        hints = typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (NameError, TypeError):
        hints = {}
    return {k: check_keys(hints.get(k, Any), v, _join(where, f"init_args.{k}"), texts) for k, v in arguments.items()}


def import_class(path: str, where: str) -> Any:
    """The class that a dotted path names; a wrong part is told apart from a module that fails to import."""
    module_name, _, name = str(path).rpartition(".")
    if not module_name:
        raise ZooError(f"{where}.class_path = {path!r} is not a dotted path such as my_module.MyObjective.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise ZooError(
            f"{where}.class_path = {path!r}: no module {error.name!r} in the working directory or the environment."
        ) from error
    if not hasattr(module, name):
        known = [n for n, item in vars(module).items() if inspect.isclass(item)]
        raise ZooError(f"{where}.class_path = {path!r}: {module_name} has no {name!r}.{nearest(name, known)}")
    return getattr(module, name)
