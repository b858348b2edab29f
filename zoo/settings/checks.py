"""Plain values against the types they are meant for, before jsonargparse builds them.

jsonargparse checks types too. What it does not do, or says less well, is here: an unknown key with the nearest one,
``null`` to leave an entry out, lists between commas, and text that YAML takes for something else.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, Union

from zoo.errors import ZooError, nearest
from zoo.settings.yaml_files import parse_value
from zoo.values import annotations_of, check_value

_NO_ROLES = ("builtins", "collections.abc", "typing")  # modules of types that classes of any role can be of


def _alternatives(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, ``None`` and what :mod:`zoo.values` says of them left out."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _alternatives(inner[0])
    if origin in (Union, types.UnionType):
        return [option for part in inner if part is not type(None) for option in _alternatives(part)]
    return [annotation]


def _is_text(annotation: Any) -> bool:
    """Whether text will do, as it is."""
    options = (typing.get_origin(option) or option for option in _alternatives(annotation))
    return any(option in (str, Any, object, Literal, int, float, bool) for option in options)


def _roles(annotation: Any) -> list[type[Any]]:
    """Classes that a ``class_path`` may name a subclass of: those of an annotation, or what its callable makes."""
    found: list[type[Any]] = []
    for option in _alternatives(annotation):
        origin = typing.get_origin(option)
        if origin is collections.abc.Callable:
            found += _roles(typing.get_args(option)[-1])
        elif inspect.isclass(kind := origin or option) and not dataclasses.is_dataclass(kind):
            found += [kind] if kind.__module__ not in _NO_ROLES else []
    return list(dict.fromkeys(found))


def _split(annotation: Any, text: str) -> Any:
    """A text where only a list will do: its parts between commas, as in ``--init_from.layers 0,2``."""
    options = _alternatives(annotation)
    inner = next((typing.get_args(option)[0] for option in options if typing.get_origin(option) is list), None)
    if inner is None or str in options:
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if inner is str else [parse_value(part) for part in parts]


def _needs_a_list(annotation: Any) -> bool:
    """Whether a number will do in a list only."""
    origins = [typing.get_origin(option) or option for option in _alternatives(annotation)]
    return list in origins and not {Any, object, int, float, bool, str} & {o for o in origins if o is not list}


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
    """Raise ZooError if plain values do not fit: keys, class paths, numbers, names; nothing that they name is called.

    Entries of dictionaries that are ``null`` are dropped, lists given as text are split, paths are expanded.

    Args:
        annotation: the dataclass or type that ``value`` is meant for.
        value: what was read.
        where: dotted place, for the message.
        texts: by dotted place, what the command line says there, letter by letter; ``None`` for a key without a value.

    Returns:
        the value as it is to be built.
    """
    if isinstance(value, str):
        return check_value(annotation, _needs_no_keys(annotation, _split(annotation, value), where), where)
    if isinstance(value, list):
        kinds = _item_kinds(annotation, len(value))
        items = [
            check_keys(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(zip(kinds, value, strict=True))
        ]
        return check_value(annotation, items, where)
    if not isinstance(value, dict):
        of_number = next((o.of_number for o in _alternatives(annotation) if hasattr(o, "of_number")), None)
        if of_number is not None and isinstance(value, int) and not isinstance(value, bool):
            return check_keys(annotation, of_number(value), where)
        value = _as_text(annotation, value, where, texts)
        if isinstance(value, (int, float)) and _needs_a_list(annotation):  # `--seeds 1`, as `--seeds 1,2`
            return check_keys(annotation, [value], where)
        return _needs_no_keys(annotation, check_value(annotation, value, where), where)
    if "class_path" in value and dict[str, Any] not in _alternatives(annotation):
        return check_class(annotation, value, where, texts)
    for option in _alternatives(annotation):
        if dataclasses.is_dataclass(option):
            hints = annotations_of(option)
            names = [field.name for field in dataclasses.fields(option) if field.init]
            _raise_on_unknown_keys(value, names, where)
            return {key: check_keys(hints[key], item, _join(where, key), texts) for key, item in value.items()}
        if typing.get_origin(option) is dict:
            kind, inner = typing.get_args(option)
            kept = {check_value(kind, k, f"a name in {where}"): v for k, v in value.items() if v is not None}
            return {k: check_keys(inner, v, _join(where, str(k)), texts) for k, v in kept.items()}
    return {key: check_keys(Any, item, _join(where, str(key)), texts) for key, item in value.items()}


def _item_kinds(annotation: Any, size: int) -> list[Any]:
    """What the items of a list are meant for; ``Any`` where the annotation does not say."""
    for option in _alternatives(annotation):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin is tuple and inner[-1] is not Ellipsis and len(inner) == size:
            return list(inner)
        if origin in (list, tuple) and (origin is list or inner[-1] is Ellipsis):
            return [inner[0]] * size
    return [Any] * size


def _needs_no_keys(annotation: Any, value: Any, where: str) -> Any:
    """A text or a number as it is, unless only keys and values will do.

    Raises:
        ZooError: a class, or settings, are needed.
    """
    if value is None or isinstance(value, list) or _is_text(annotation):
        return value
    kinds = [typing.get_origin(option) or option for option in _alternatives(annotation)]
    shown = str(value).lower() if isinstance(value, bool) else value
    if roles := _roles(annotation):
        path = value if isinstance(value, str) else "my_module.MyClass"
        raise ZooError(
            f"{where} = {shown}; the class path of a {roles[0].__name__} is needed (--{where}.class_path {path}), and "
            f"its arguments, where it takes some (--{where}.init_args.NAME VALUE)."
        )
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            keys = ", ".join(field.name for field in dataclasses.fields(kind) if field.init)
            raise ZooError(f"{where} = {shown}; keys below it are needed (--{where}.KEY VALUE): {keys}.")
        if kind is dict:
            raise ZooError(f"{where} = {shown}; names and their values are needed: --{where}.NAME VALUE.")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _raise_on_unknown_keys(value: dict[str, Any], names: list[str], where: str) -> None:
    for key in value:
        if key not in names:
            raise ZooError(
                f"unknown key {_join(where, str(key))!r}.{nearest(str(key), names)} Known here: {', '.join(names)}."
            )


def check_class(
    annotation: Any, value: dict[str, Any], where: str, texts: Mapping[str, str | None] = MappingProxyType({})
) -> dict[str, Any]:
    """A ``class_path`` with its ``init_args``, checked against the role that the place has, and not called."""
    _raise_on_unknown_keys(value, ["class_path", "init_args"], where)
    roles = _roles(annotation)
    if not roles:
        raise ZooError(f"{where}.class_path = {value['class_path']!r}: no class can be named here.")
    found = import_class(value["class_path"], where, tuple(roles))
    arguments = value.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ZooError(f"{where}.init_args = {arguments!r}; names and values are needed.")
    parameters = inspect.signature(found).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        _raise_on_unknown_keys(arguments, list(parameters), _join(where, "init_args"))
    hints = _argument_kinds(found)
    checked = {k: check_keys(hints.get(k, Any), v, _join(where, f"init_args.{k}"), texts) for k, v in arguments.items()}
    return {**value, "init_args": checked}


def _argument_kinds(found: type[Any]) -> dict[str, Any]:
    """Annotations of a class's arguments; those of its bases, too, which ``**arguments`` may go to."""
    kinds: dict[str, Any] = {}
    for part in reversed(found.__mro__):
        made = vars(part).get("__init__")
        if not inspect.isfunction(made):
            continue
        try:
            kinds |= typing.get_type_hints(made, include_extras=True)
        except (NameError, TypeError, AttributeError):  # a name that is imported for type checkers only
            kinds |= dict.fromkeys(made.__annotations__, Any)
    return kinds


def import_class(path: str, where: str, roles: tuple[type[Any], ...] = (object,)) -> Any:
    """The class that a dotted path names; a wrong part is told apart from a module that fails to import.

    Its module is imported, which runs what stands at that module's top; nothing in it is called.

    Args:
        path: ``module.Class``.
        where: dotted place of ``class_path``, for the message.
        roles: it has to be a subclass of one of these.

    Raises:
        ZooError: there is no such class, or it has another role.
    """
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
    role = " or ".join(kind.__name__ for kind in roles)
    known = [n for n, item in vars(module).items() if inspect.isclass(item) and issubclass(item, roles)]
    if not hasattr(module, name):
        raise ZooError(f"{where}.class_path = {path!r}: {module_name} has no {name!r}.{nearest(name, known)}")
    found = getattr(module, name)
    if not inspect.isclass(found) or not issubclass(found, roles):
        kind = "a class" if inspect.isclass(found) else f"a {type(found).__name__}"
        raise ZooError(f"{where}.class_path = {path!r} is {kind}, but no {role}; a subclass of {role} is needed.")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(vars(found)["__abstractmethods__"]))
        raise ZooError(f"{where}.class_path = {path!r} lacks {lacking}: name a subclass that has them.")
    return found


# ---- names that are no longer read ----------------------------------------------------------------------------------

_SHOWN = 12  # lines of one message
_FOREIGN = ""

T = TypeVar("T")


@dataclass(frozen=True)
class RenamedNames:
    """Old names and their new ones.

    Keys are dotted, with ``*`` for any one part; parts before the last one are new names.

    Args:
        keys: old key -> the new name of its last part.
        values: key -> its old values and their new ones.
        class_paths: dotted path of a class -> its new path.
        package: beginning of the paths of our classes; arguments of other classes have names of their own.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    class_paths: Mapping[str, str] = field(default_factory=dict)
    package: str = ""

    def check(self, values: Mapping[str, Any], source: str = "the settings", prefix: str = "") -> None:
        """Raise ZooError if an old name occurs, at any depth.

        Args:
            values: nested plain values, as YAML, a command line or ``run.json`` says them.
            source: where they were read, for the message.
            prefix: dotted place of ``values`` in that source, for the message.

        Raises:
            ZooError: naming each old name and the new one.
        """
        lines = [f"{prefix}{old} is now {new}" for old, new in self._found(values, (), ())]
        if lines:
            more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            listing = "\n  ".join([*lines[:_SHOWN], *more])
            raise ZooError(f"old names ({source}):\n  {listing}\nWrite the new ones; CHANGELOG.md lists all.")

    def _found(self, value: Any, where: tuple[str, ...], now: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Old names at and below a place, with their new ones.

        Args:
            value: what stands at the place.
            where: the place, as it is written.
            now: the place, with new names.
        """
        if isinstance(value, str) and value in self.class_paths:
            yield f"{'.'.join(where)}: {value}", self.class_paths[value]
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._found(item, (*where, str(number)), (*now, str(number)))
        elif isinstance(value, Mapping):
            ours = str(value.get("class_path", self.package)).startswith(self.package)
            for key, item in value.items():
                place = (*where, str(key))
                then = (*now, _at(self.keys, (*now, str(key))) or str(key))
                if key == "init_args" and not ours:
                    then = (*now, _FOREIGN)  # no key below has a place in the tables; class paths there still do
                changed = (_at(self.values, then) or {}).get(item) if isinstance(item, str) else None
                if changed is not None:
                    yield f"{'.'.join(place)}: {item}", f"{'.'.join(then)}: {changed}"
                elif then[-1] not in (str(key), _FOREIGN):
                    yield ".".join(place), ".".join(then)
                yield from self._found(item, place, then)


def _at(table: Mapping[str, T], place: tuple[str, ...]) -> T | None:
    """What a table with ``*`` in its keys has for a place, ``None`` where it has nothing."""
    for pattern, found in table.items():
        parts = pattern.split(".")
        if len(parts) == len(place) and all(part in ("*", own) for part, own in zip(parts, place, strict=True)):
            return found
    return None
