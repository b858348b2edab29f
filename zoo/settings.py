"""Settings from YAML files and ``--a.b value`` overrides into typed dataclasses.

One path for every command: files are merged in order (``base: FILE`` inside a file comes first), overrides
are laid on top, unknown keys are refused by name, and jsonargparse checks types and builds the plug-in classes
that ``class_path`` names, also a user's own from the working directory.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, Union

import yaml

from zoo.errors import ZooError, nearest

T = TypeVar("T")
_TOKEN = re.compile(r"\[[A-Z][A-Z0-9_]*\]")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with floats such as ``1e-4`` read as numbers (PyYAML wants a dot)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)?|\.[\d_]+([eE][-+]?\d+)?|\.(inf|nan|Inf|NaN))$"),
    list("-+0123456789."),
)
_Loader.yaml_implicit_resolvers = {
    key: [r for r in rules if r[0] != "tag:yaml.org,2002:float"]
    + [r for r in rules if r[0] == "tag:yaml.org,2002:float"]
    for key, rules in _Loader.yaml_implicit_resolvers.items()
}


@dataclasses.dataclass(frozen=True)
class Settings(Generic[T]):
    """Settings as an object and as plain values.

    Args:
        value: the instance, plug-ins built.
        resolved: every key with its value, defaults included, as JSON values.
        argv: the command line they were read from.
    """

    value: T
    resolved: dict[str, Any]
    argv: tuple[str, ...] = ()


def shipped_configs() -> Path:
    """The folder of configs that ship with the package."""
    return Path(importlib.import_module("configs").__path__[0])


def find_config(name: str, kind: str, beside: Path | None = None) -> Path:
    """A YAML file by path (also relative to the file that names it) or by a shipped config's name.

    Raises:
        ZooError: neither exists; names the nearest shipped one.
    """
    for folder in filter(None, (beside, Path())):
        path = folder / name
        if path.is_file():
            return path
    stem = name.removesuffix(".yaml")
    folder = shipped_configs()
    for path in (folder / kind / f"{stem}.yaml", folder / f"{stem}.yaml"):
        if path.is_file():
            return path
    known = [path.stem for path in (folder / kind).glob("*.yaml")]
    parts = [part for part in re.split("[+,]", name) if part]
    hint = f" Several files: --config {' --config '.join(parts)}." if len(parts) > 1 else nearest(stem, known)
    raise ZooError(f"no config file {name!r}, and none of that name is shipped in configs/{kind}.{hint}")


def merge(old: Any, new: Any) -> Any:
    """``new`` laid over ``old``: dictionaries merge key by key, but another ``class_path`` starts afresh."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return copy.deepcopy(new)
    if "class_path" in new and new["class_path"] != old.get("class_path"):
        return copy.deepcopy(new)
    result = dict(old)
    for key, value in new.items():
        result[key] = merge(old[key], value) if key in old else copy.deepcopy(value)
    return result


def read_yaml(path: Path, kind: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One YAML file with every ``base: FILE``, at any depth, merged in."""
    if path.resolve() in seen:
        raise ZooError(f"{path}: `base` leads back to this file.")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ZooError(f"{path} is not valid YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ZooError(f"{path} holds a {type(value).__name__}; keys and values are needed.")
    result = _resolve_bases(value, path, kind, (*seen, path.resolve()))
    assert isinstance(result, dict)
    return result


def _resolve_bases(value: Any, path: Path, kind: str, seen: tuple[Path, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    own = {key: _resolve_bases(item, path, kind, seen) for key, item in value.items() if key != "base"}
    if "base" not in value:
        return own
    return merge(read_yaml(find_config(str(value["base"]), kind, path.parent), kind, seen), own)


def parse_arguments(argv: list[str]) -> tuple[list[str], dict[str, Any], bool]:
    """Split a command line into ``--config`` names, nested overrides and whether help is asked for."""
    configs: list[str] = []
    overrides: dict[str, Any] = {}
    words, wants_help = split_arguments(argv)
    for key, text in words:
        if key != "config":
            set_nested(overrides, key, True if text is None else _parse_value(text))
        elif text is None:
            raise ZooError("--config has no value; name a YAML file or a shipped config.")
        else:
            configs.append(text)
    return configs, overrides, wants_help


def split_arguments(argv: list[str]) -> tuple[list[tuple[str, str | None]], bool]:
    """A command line as (key, its text, ``None`` where it has none), and whether help is asked for."""
    found: list[tuple[str, str | None]] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if word in ("-h", "--help"):
            return found, True
        if not word.startswith("--"):
            raise ZooError(f"unexpected argument {word!r}; settings are given as --key value, files as --config FILE.")
        key, equals, text = word[2:].partition("=")
        follows = not equals and position < len(argv) and not argv[position].startswith("--")
        if follows:
            text = argv[position]
            position += 1
        found.append((key, text if equals or follows else None))
    return found, False


def _parse_value(text: str) -> Any:
    if _TOKEN.fullmatch(text):  # [MASK] is the name of a token; to YAML it is a list of one word
        return text
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def set_nested(target: dict[str, Any], key: str, value: Any) -> None:
    """``target["a"]["b"] = value`` for the key ``a.b``."""
    *parents, last = key.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ZooError(f"--{key}: {parent!r} already has a value and takes no keys below it.")
    target[last] = value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as ``{"a.b": value}``."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return result


def _plain(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, ``None`` left out."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [a for a in typing.get_args(annotation) if a is not type(None)]
    return [annotation]


def _split(annotation: Any, text: str) -> Any:
    """A text where only a list will do: its parts between commas, as in ``--start.layers 0,2``."""
    options = _plain(annotation)
    inner = next((typing.get_args(option)[0] for option in options if typing.get_origin(option) is list), None)
    if inner is None or str in options:
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts if inner is str else [_parse_value(part) for part in parts]


def _textual(annotation: Any) -> bool:
    """Whether only text will do: a text, a list of them, or one of some words."""
    options = _plain(annotation)
    words = (typing.get_origin(o) is Literal and all(isinstance(w, str) for w in typing.get_args(o)) for o in options)
    return bool(options) and all(o in (str, list[str]) or w for o, w in zip(options, words, strict=True))


def _as_text(annotation: Any, value: Any, where: str, texts: Mapping[str, str | None]) -> Any:
    """What the command line says, where only text will do: ``--output 2024`` and ``--output true`` name folders.

    Raises:
        ZooError: YAML says something else than text; or a key that is no switch has no value.
    """
    if where in texts and texts[where] is None and bool not in (options := _plain(annotation)) and Any not in options:
        raise ZooError(f"--{where} has no value: --{where} VALUE.")
    if not isinstance(value, (bool, int, float, datetime.date)) or not _textual(annotation):
        return value
    if where not in texts:
        choices = [word for option in _plain(annotation) for word in typing.get_args(option) if isinstance(word, str)]
        needed = f"one of {', '.join(choices)}" if choices else "text"
        raise ZooError(
            f"{where} = {str(value).lower()}, and {needed} is needed: --{where} VALUE on the command line; in YAML "
            f"between quotes, since words such as no, true and 12 are something else there."
        )
    return _split(annotation, str(texts[where]))


def check_keys(
    annotation: Any, value: Any, where: str = "", texts: Mapping[str, str | None] = MappingProxyType({})
) -> Any:
    """Refuse unknown keys by name, drop ``null`` entries of dictionaries by name, split lists given as text.

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
    for option in _plain(annotation):
        if "class_path" in value:
            return {**value, "init_args": _check_class(value, where, texts)}
        if dataclasses.is_dataclass(option):
            hints = typing.get_type_hints(option)
            names = [field.name for field in dataclasses.fields(option) if field.init]
            _refuse_unknown(value, names, where)
            return {key: check_keys(hints[key], item, _join(where, key), texts) for key, item in value.items()}
        if typing.get_origin(option) is dict and len(typing.get_args(option)) == 2:
            inner = typing.get_args(option)[1]
            return {k: check_keys(inner, v, _join(where, str(k)), texts) for k, v in value.items() if v is not None}
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _refuse_unknown(value: dict[str, Any], names: list[str], where: str) -> None:
    for key in value:
        if key not in names:
            raise ZooError(
                f"unknown key {_join(where, str(key))!r}.{nearest(str(key), names)} Known here: {', '.join(names)}."
            )


def _check_class(value: dict[str, Any], where: str, texts: Mapping[str, str | None]) -> dict[str, Any]:
    _refuse_unknown(value, ["class_path", "init_args"], where)
    arguments = value.get("init_args") or {}
    found = import_class(value["class_path"], where)
    signature = inspect.signature(found)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return dict(arguments)
    _refuse_unknown(arguments, list(signature.parameters), _join(where, "init_args"))
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


def load_settings(
    cls: type[T],
    argv: list[str],
    prog: str,
    kind: str,
    values: dict[str, Any] | None = None,
    amend: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
) -> Settings[T]:
    """Settings of a command.

    Args:
        cls: the dataclass to build.
        argv: command line: ``--config FILE`` (several merge in order) and ``--a.b value``.
        prog: the command, for ``--help``.
        kind: folder of shipped configs that ``--config NAME`` is looked up in.
        values: values to lay over the files and under the overrides (ablation arms).
        amend: (all values, those of ``values`` and the overrides alone) -> values by dotted key that take the place
            of what the files say.

    Raises:
        ZooError: an unknown key, a wrong value, a missing file, each with what would work.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    configs, overrides, wants_help = parse_arguments(argv)
    texts = dict(split_arguments(argv)[0])
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_argument("--settings", type=cls)
    if wants_help:
        _print_help(cls, prog)
    files: dict[str, Any] = {}
    for name in configs:
        files = merge(files, read_yaml(find_config(name, kind), kind))
    said = merge(values or {}, overrides)
    merged = check_keys(cls, merge(files, said), texts=texts)
    if amend is not None:
        for key, value in amend(merged, said).items():
            set_nested(files, key, value)
        merged = check_keys(cls, merge(files, said), texts=texts)
    try:
        parsed = parser.parse_object({"settings": merged})
        resolved = json.loads(parser.dump(parsed, format="json", skip_none=False))["settings"]
        value = parser.instantiate_classes(parsed)["settings"]
    except (ArgumentError, TypeError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ZooError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        wanted = "required" in str(error) and not configs and not values and (shipped_configs() / kind).is_dir()
        # a config brings what is missing, and mends nothing else
        hint = "\nNo --config was given: name a YAML file, or a config of `zoo list`." if wanted else ""
        raise ZooError(_readable(str(error)) + hint) from error
    return Settings(value, resolved, tuple(argv))


def _readable(message: str) -> str:
    """A jsonargparse message without our internal top key and without its repetitions."""
    text = message.replace("settings.", "").replace('"settings"', "the settings")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:14])


def _print_help(cls: type[Any], prog: str) -> None:
    """Every key with its type and default, then leave."""
    print(f"usage: {prog} --config FILE [--config FILE ...] [--key.subkey value ...]\n\nkeys:")
    _print_fields(cls, "")
    raise SystemExit(0)


def _print_fields(cls: type[Any], prefix: str) -> None:
    from docstring_parser import parse

    texts = {p.arg_name: " ".join((p.description or "").split()) for p in parse(cls.__doc__ or "").params}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = [option for option in _plain(hints[field.name]) if dataclasses.is_dataclass(option)]
        if inner:
            _print_fields(typing.cast(type[Any], inner[0]), f"{prefix}{field.name}.")
            continue
        default = "" if field.default is dataclasses.MISSING else f" (default {field.default!r})"
        print(f"  --{prefix}{field.name}{default}\n        {texts.get(field.name, '')}")
