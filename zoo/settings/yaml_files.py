"""Command lines to nested plain values: ``--config FILE``, ``--a.b value``, ``--switch``."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ZooError, nearest
from zoo.values import user_path


def parse_yaml(text: str) -> Any:
    """Values of a YAML text as jsonargparse reads them: ``1e-4`` is a number (to PyYAML it is text), a date is text.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    from jsonargparse import get_loader  # a fifth of a second, which `zoo --help` does without

    return get_loader("yaml")(text)


class _Dumper(yaml.SafeDumper):
    """Quotes what :func:`parse_yaml` would not read as the same text; PyYAML's own reader takes ``1e-4`` for text."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, between quotes where it is no text without them."""
        try:
            plain = parse_yaml(data) == data
        except yaml.YAMLError:
            plain = False
        return self.represent_scalar("tag:yaml.org,2002:str", data, None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def as_yaml(values: dict[str, Any], every_character: bool = True) -> str:
    """Values as a YAML text that :func:`parse_yaml` reads as the same.

    Args:
        values: plain ones.
        every_character: as it is; else those beyond ASCII are escaped.
    """
    return str(yaml.dump(values, Dumper=_Dumper, allow_unicode=every_character, sort_keys=False))


def shipped_configs() -> Path:
    """The folder of configs that ship with the package."""
    return Path(importlib.import_module("configs").__path__[0])


_SECTIONS = ("data", "model", "train")  # folders of shipped configs that fill one section of a run's settings
_EITHER = (
    ("steps", "tokens", "flops", "minutes"),
)  # keys of which a later file, or the command line, replaces all by one


def config_names(text: str) -> list[str]:
    """The files that one ``--config`` names: each behind a ``+`` is laid over those before it.

    Raises:
        ZooError: a comma, which stands between configs of several runs.
    """
    if user_path(text).is_file():
        return [text]
    if "," in text:
        first, *others = [name for name in text.split(",") if name] or [""]
        raise ZooError(
            f"--config {text} names several runs, and this command takes one: --config {first}. To lay a file over "
            f"another, write {'+'.join([first, *others])}."
        )
    return [name for name in text.split("+") if name]


def find_config(name: str, kind: str, beside: Path | None = None) -> Path:
    """A YAML file by path (also relative to the file that names it) or by a shipped config's name.

    Args:
        name: a path, or the name of a shipped config without ``.yaml``: of ``kind``, or with its folder (``data/zh``).
        kind: folder of shipped configs.
        beside: folder of the file that names it.

    Raises:
        ZooError: neither exists; names the nearest shipped one.
    """
    for folder in filter(None, (beside, Path())):
        path = folder / user_path(name)
        if path.is_file():
            return path
    stem = name.removesuffix(".yaml")
    folder = shipped_configs()
    for path in (folder / kind / f"{stem}.yaml", folder / f"{stem}.yaml"):
        if path.is_file():
            return path
    known = [path.stem for path in (folder / kind).glob("*.yaml")]
    known += [path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml")]
    raise ZooError(f"no config file {name!r}, and no config of that name is shipped.{nearest(stem, known)}")


def read_configs(names: list[str], kind: str) -> dict[str, Any]:
    """The files of a command line, each laid over those before it.

    A shipped file that fills one section (``data/zh``) is laid over that section of the runs that are described.
    """
    merged: dict[str, Any] = {}
    for name in names:
        path = find_config(name, kind)
        values = read_yaml(path, kind)
        section = path.parent.name
        if section in _SECTIONS and path.parent.parent == shipped_configs():
            values = {section: values} if kind == "pretrain" else {"common": {section: values}}
        merged = merge(merged, values)
    return merged


def merge(old: Any, new: Any) -> Any:
    """``new`` laid over ``old``: dictionaries merge key by key, but another ``class_path`` starts afresh.

    One budget (steps, tokens, flops, minutes) takes the place of another.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return copy.deepcopy(new)
    if "class_path" in new and new["class_path"] != old.get("class_path"):
        return copy.deepcopy(new)
    result = dict(old)
    for group in _EITHER:
        if any(new.get(key) is not None for key in group):
            result = {key: value for key, value in result.items() if key not in group}
    for key, value in new.items():
        result[key] = merge(result[key], value) if key in result else copy.deepcopy(value)
    return result


def read_yaml(path: Path, kind: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One YAML file with every ``base: FILE``, at any depth, merged in.

    A base is a path, relative to the file that names it or to the working directory, or the name of a shipped config:
    of a section's folder below ``model``, ``data`` and ``train`` (``model: {base: bert-mini}``), else of a run.
    """
    if path.resolve() in seen:
        raise ZooError(f"{path}: `base` leads back to this file.")
    try:
        value = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:  # a number of 5,000 digits
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
    own = {
        key: _resolve_bases(item, path, key if key in _SECTIONS else "pretrain", seen)
        for key, item in value.items()
        if key != "base"
    }
    if "base" not in value:
        return own
    return merge(read_yaml(find_config(str(value["base"]), kind, path.parent), kind, seen), own)


_TOKEN = re.compile(r"\[[A-Z][A-Z0-9_]*\]")


def parse_arguments(argv: list[str]) -> tuple[list[str], dict[str, Any], bool]:
    """Split a command line into ``--config`` names, nested overrides and whether help is asked for."""
    configs: list[str] = []
    overrides: dict[str, Any] = {}
    words, wants_help = split_arguments(argv)
    for key, text in words:
        if key != "config":
            set_nested(overrides, key, True if text is None else parse_value(text))
        elif text is None:
            raise ZooError("--config has no value; name a YAML file or a shipped config.")
        else:
            configs += config_names(text)
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


def parse_value(text: str) -> Any:
    """One value of a command line: YAML, or the text itself where that is no YAML."""
    if _TOKEN.fullmatch(text):  # [MASK] is the name of a token; to YAML it is a list of one word
        return text
    try:
        return parse_yaml(text)
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
