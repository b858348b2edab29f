"""Settings from YAML files and ``--a.b value`` overrides into typed dataclasses; and ``--help``, which tells them.

One path for every command: files are merged in order (``base: FILE`` inside a file comes first), overrides
are laid on top, an unknown key is an error that names it, and jsonargparse checks types and builds the plug-in classes
that ``class_path`` names, also a user's own from the working directory.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zoo.errors import ZooError
from zoo.settings.checks import RenamedNames, check_keys
from zoo.settings.source import (
    Argument,
    Definition,
    class_in,
    derived_classes,
    fields_of,
    find_class,
    init_arguments,
    kind_of,
    values_by_name,
)
from zoo.settings.yaml_files import (
    as_yaml,
    merge,
    parse_arguments,
    read_configs,
    set_nested,
    shipped_configs,
    split_arguments,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

T = TypeVar("T")
PRINT_CONFIG = "--print_config"
"""Word of a command line that asks for the settings instead of the command's work."""


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


def load_settings(
    cls: type[T],
    argv: list[str],
    prog: str,
    kind: str,
    values: dict[str, Any] | None = None,
    amend: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
    renamed: RenamedNames | None = None,
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
        renamed: names that are no longer read, and their new ones.

    Raises:
        ZooError: a missing file, an old name, an unknown key, a wrong value, each with what would work.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if wants_help(argv):
        print(help_text(CommandHelp(prog, f"{cls.__module__}:{cls.__qualname__}"), argv))
        raise SystemExit(0)
    wants_print, argv = take_switch(argv, PRINT_CONFIG)
    configs, overrides, _ = parse_arguments(argv)
    texts = dict(split_arguments(argv)[0])
    files = read_configs(configs, kind)
    command_line = merge(values or {}, overrides)
    merged = merge(files, command_line)
    if renamed is not None:
        renamed.check(merged)
    merged = check_keys(cls, merged, texts=texts)
    if amend is not None:
        for key, value in amend(merged, command_line).items():
            set_nested(files, key, value)
        merged = check_keys(cls, merge(files, command_line), texts=texts)
    needs_config = not configs and not values and (shipped_configs() / kind).is_dir()
    value, resolved = _instantiate(cls, merged, prog, needs_config)
    if wants_print:
        print_settings(resolved)
        raise SystemExit(0)
    return Settings(value, resolved, tuple(argv))


def _instantiate(cls: type[T], merged: dict[str, Any], prog: str, needs_config: bool) -> tuple[T, dict[str, Any]]:
    """The dataclass that jsonargparse makes of values, and every key with its value.

    Args:
        cls: the dataclass.
        merged: its values.
        prog: the command.
        needs_config: no config was given, and one would bring what is missing.

    Raises:
        ZooError: a wrong value, or a missing one.
    """
    from jsonargparse import ArgumentError

    parser = _parser(cls, prog)  # type: ignore[arg-type]  # mypy knows no hash of a class
    try:
        parsed = parser.parse_object({"settings": merged})
        resolved = json.loads(parser.dump(parsed, format="json", skip_none=False, skip_validation=True))["settings"]
        return parser.instantiate_classes(parsed)["settings"], resolved
    except (ArgumentError, TypeError, ValueError) as error:
        if (cause := _own_error(error)) is not None:
            raise cause from None
        # a config brings what is missing, and mends nothing else
        wanted = needs_config and "required" in str(error)
        hint = "\nNo --config was given: name a YAML file, or a config of `zoo list`." if wanted else ""
        raise ZooError(_readable(str(error)) + hint) from error


@functools.cache
def _parser(cls: type[Any], prog: str) -> ArgumentParser:
    """The parser of a dataclass: made once, since that takes as long as reading settings with it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_argument("--settings", type=cls)
    return parser


def _own_error(error: BaseException) -> ZooError | None:
    """The error of ours that a library wrapped in its own, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ZooError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _readable(message: str) -> str:
    """A jsonargparse message without our internal top key and without its repetitions."""
    text = message.replace("settings.", "").replace('"settings"', "the settings")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:14])


def take_switch(argv: list[str], word: str) -> tuple[bool, list[str]]:
    """Whether a switch is among the words of a command line, and the others."""
    return word in argv, [other for other in argv if other != word]


def print_settings(resolved: dict[str, Any]) -> None:
    """Settings on standard output, as YAML that ``--config`` reads as the same."""
    print_once(as_yaml(resolved, (sys.stdout.encoding or "").lower().startswith("utf")))


def print_once(text: str) -> None:
    """A text on standard output; of several processes of a launcher, one prints it."""
    if os.environ.get("RANK", "0") == "0":
        print(text.rstrip("\n"))


# ---- --help: from the source of settings and plug-ins, without importing them ----------------------------------------

_COLUMN = 38  # where texts begin
_MARKS = [
    (re.compile(r":[\w:]+:`~?(?:[\w.]*\.)?(\w+)`"), r"\1"),
    (re.compile(r"``?([^`]*)``?"), r"\1"),
    (re.compile(r"\bNone\b"), "null"),
]  # reST's roles and literals; what Python calls None
_CLASS_NOTE = "CLASS: the key takes .class_path and .init_args.KEY below it. --KEY.help CLASS_PATH tells which."


@dataclasses.dataclass(frozen=True)
class CommandHelp:
    """What a command's help needs to know.

    Args:
        prog: the command as it is typed: ``zoo score``.
        settings: its settings, ``MODULE:CLASS``.
        words: what stands behind it without a key: ``RUN``.
        about: what the command does.
        switches: words that are no settings, and what each does.
        laid_over: further settings that it takes and lays over the configs, ``MODULE:CLASS``.
    """

    prog: str
    settings: str
    words: str = ""
    about: str = ""
    switches: tuple[tuple[str, str], ...] = ()
    laid_over: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Option:
    """One setting.

    Args:
        key: dotted.
        kind: its type in words; empty for a switch.
        default: in the words of a YAML file; ``None`` = required, empty = nothing to say.
        text: what it means.
        classes: paths of the shipped classes that it may be.
    """

    key: str
    kind: str
    default: str | None
    text: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class OptionGroup:
    """Settings under one heading."""

    title: str
    options: list[Option]


HELP_WORDS = ("-h", "--help")
COMMON_SWITCHES = (
    ("help", "this text"),
    ("config FILE", "a YAML file with settings, or the name of a shipped one; several merge in order"),
    ("print_config", "the settings as they come out of files and command line, in YAML that --config can read"),
)

DRY_RUN = ("dry_run", "check everything, say what would run, and train nothing")
"""The switch and its help, of the commands that train."""


def wants_help(argv: list[str]) -> bool:
    """Whether a command line asks for help, of the command or of a class."""
    return any(word in HELP_WORDS or (word.startswith("--") and word.endswith(".help")) for word in argv)


def help_text(command: CommandHelp, argv: list[str], width: int | None = None) -> str:
    """What ``--help`` prints, or ``--KEY.help CLASS``.

    Args:
        command: whose.
        argv: its command line.
        width: of a line; ``None`` = the terminal's, up to 110.

    Raises:
        ZooError: no such class.
    """
    width = width or max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    for place, word in enumerate(argv):
        if word.startswith("--") and word.endswith(".help"):
            return _class_help(word[2:-5], argv[place + 1 : place + 2], width)
    words = f" {command.words}" if command.words else ""
    usage = f"usage: {command.prog}{words} [--config FILE ...] [--KEY VALUE ...]"
    lines = textwrap.wrap(usage, width, subsequent_indent=" " * 7)
    if command.about:
        lines += ["", *textwrap.wrap(command.about, width)]
    switches = [Option(name, "", "", text) for name, text in (*COMMON_SWITCHES, *command.switches)]
    module, _, name = command.settings.partition(":")
    groups = [OptionGroup("switches", switches), *option_groups(module, name)]
    for group in groups:
        lines += ["", *textwrap.wrap(_plain(group.title) + ":" * bool(group.options), width)]
        for option in group.options:
            lines += _option_lines(option, width)
    if any("CLASS" in option.kind for group in groups for option in group.options):
        lines += ["", *textwrap.wrap(_CLASS_NOTE, width)]
    return "\n".join(lines)


def option_groups(
    module: str, name: str, prefix: str = "", title: str = "", told_at: dict[str, str] | None = None
) -> list[OptionGroup]:
    """The settings of a dataclass, and groups of those below it.

    Args:
        module: where it is.
        name: its name.
        prefix: what stands in front of its keys.
        title: of its group; empty = the first sentence of its docstring.
        told_at: by class, the key below which its settings were told before; they are not told again.
    """
    found, told_at = find_class(module, name), {} if told_at is None else told_at
    told = arguments_told(found.docstring)
    own, inherited, below = list[Option](), list[OptionGroup](), list[OptionGroup]()
    for base in found.bases():
        for group in option_groups(base.module, base.name, prefix, told_at=told_at):
            anew = [dataclasses.replace(o, text=told.get(o.key.removeprefix(prefix), o.text)) for o in group.options]
            inherited.append(OptionGroup(group.title, anew))
    for field in fields_of(found):
        inner = values_by_name(field.annotation)
        key, text = f"{prefix}{field.name}{'.NAME' * (inner is not None)}", told.get(field.name, "")
        inside = class_in(found.module, inner or field.annotation)
        if inside is None or not inside.is_settings():
            own.append(_option(key, found, field._replace(annotation=inner or field.annotation), text, inside))
            continue
        heading = f"--{key}: {text}".rstrip(". ")
        if inside.name in told_at:
            below.append(OptionGroup(f"{heading}; its keys are those of --{told_at[inside.name]}", []))
            continue
        told_at[inside.name] = key
        below += option_groups(inside.module, inside.name, f"{key}.", heading, told_at)
    heading = title or _first_sentence(found.docstring) or name
    return [*([OptionGroup(heading, own)] if own else []), *inherited, *below]


def _option(key: str, owner: Definition, field: Argument, text: str, inside: Definition | None) -> Option:
    """A setting of one value; where that is a class, the shipped ones are named."""
    classes = derived_classes(inside) if inside is not None else []
    listed = f" Classes: {', '.join(classes)}." if classes else ""
    return Option(key, kind_of(owner.module, field.annotation), field.default, text + listed, tuple(classes))


def _option_lines(option: Option, width: int) -> list[str]:
    head = f"  --{option.key} {option.kind}".rstrip()
    ending = "(required)" if option.default is None else f"(default: {option.default})" if option.default else ""
    texts = textwrap.wrap(f"{_plain(option.text)} {ending}".strip(), width - _COLUMN) or [""]
    if len(head) > _COLUMN - 2:
        return [head, *(" " * _COLUMN + text for text in texts if text)]
    return [head.ljust(_COLUMN) + texts[0], *(" " * _COLUMN + text for text in texts[1:])]


def _class_help(key: str, words: list[str], width: int) -> str:
    """The settings of a plug-in class by its path."""
    path = words[0] if words and not words[0].startswith("-") else ""
    module, _, name = path.rpartition(".")
    if not module:
        raise ZooError(f"--{key}.help {path}: a class path is needed, such as pretraining.masking.WholeWords.")
    found = find_class(module, name)
    told = arguments_told(found.docstring)
    lines = [*textwrap.wrap(f"{path}: {_first_sentence(found.docstring) or 'it has no docstring'}", width), ""]
    for item in init_arguments(found):
        inside = class_in(found.module, item.annotation)
        option = _option(f"{key}.init_args.{item.name}", found, item, told.get(item.name, ""), inside)
        lines += _option_lines(option, width)
    return "\n".join(lines)


# ---- docstrings ------------------------------------------------------------------------------------------------------

_ARGUMENT = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?:\s*(.*)$")


def arguments_told(docstring: str) -> dict[str, str]:
    """What ``Args:`` says of each argument."""
    _, found, rest = docstring.partition("\nArgs:\n")
    told: dict[str, str] = {}
    name = ""
    for line in rest.splitlines() if found else ():
        if line.strip() and not line.startswith("    "):
            break  # the next section
        if match := _ARGUMENT.match(line):
            name = match[1]
            told[name] = match[2]
        elif name:
            told[name] = f"{told[name]} {line.strip()}".strip()
    return told


def _first_sentence(text: str) -> str:
    first = text.partition("\n\n")[0].replace("\n", " ")
    return _plain(first.partition(". ")[0].rstrip("."))


def _plain(text: str) -> str:
    """A docstring's words without its marks."""
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text
