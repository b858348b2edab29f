"""Command lines to nested plain values: ``--config FILE``, ``--a.b value``, ``--switch``."""

from __future__ import annotations

import re
from typing import Any

import yaml

from zoo.errors import ZooError
from zoo.settings.yaml_files import parse_yaml

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
